"""Pickles read as data: nothing in them runs, whatever they say."""

from __future__ import annotations

import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightexp.datasets import pickles
from tests.datasets.files import pickled

X = np.random.default_rng(0).integers(0, 256, (5, 3072), np.uint8)
Y = [4, 0, 300, -7, 1]
NAMES = [f"some_s_{number}.png" for number in range(5)]
WHOLE = pickled(X, batch_label="training batch 1 of 5", labels=Y, filenames=NAMES)


def test_our_files_are_what_python_2_wrote() -> None:
    found = pickle.loads(WHOLE, encoding="bytes")
    assert found.keys() == {b"batch_label", b"labels", b"filenames", b"data"}
    assert np.array_equal(found[b"data"], X)
    assert (found[b"labels"], found[b"filenames"]) == (Y, [name.encode() for name in NAMES])


def test_what_python_2_wrote() -> None:
    found = pickles.read_pickle(WHOLE)
    assert list(found) == ["batch_label", "labels", "filenames", "data"]
    assert found["labels"] == Y
    assert found["filenames"] == NAMES
    assert np.array_equal(pickles.decode_array(found["data"]), X)


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("encoded", [True, False])
def test_what_python_3_writes(protocol: int, order: Any, encoded: bool) -> None:
    labels = Y * 200 + [7]  # one more than is written at once
    names = (name.encode() if encoded else name for name in ("data", "labels"))
    found = pickles.read_pickle(
        pickle.dumps(dict(zip(names, (np.asarray(X, order=order), labels), strict=True)), protocol)
    )
    assert np.array_equal(pickles.decode_array(found["data"]), X)
    assert found["labels"] == labels


class Malicious:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_nothing_in_it_runs(protocol: int, tmp_path: Path) -> None:
    content = pickle.dumps({"data": Malicious(tmp_path / "ran"), "labels": [0]}, protocol)
    with pytest.raises(ValueError, match=r"it names 'posix\.mkdir', which plain data do not need"):
        pickles.read_pickle(content)
    assert not (tmp_path / "ran").exists()
    pickle.loads(content)  # ... which did hold what it seemed to
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "array",
    [X.astype(np.uint16), X.astype(object), X.view(np.int8), np.array(["a"]), np.empty((0, 3072), np.uint8)],
    ids=["uint16", "object", "int8", "text", "empty"],
)
def test_other_arrays_than_of_bytes_are_refused(array: Any) -> None:
    with pytest.raises(ValueError, match=r"something else|operation"):
        pickles.decode_array(pickles.read_pickle(pickle.dumps(array, 4)))


def test_a_shape_that_promises_what_is_not_there_is_refused() -> None:
    shape = b"K\x05M\x00\x0c\x86"
    assert shape in WHOLE
    for promised in (b"J\xff\xff\xff\x7fM\x00\x0c\x86", b"J\xff\xff\xff\xffJ\x00\xc4\xff\xff\x86", b"K\x05N\x86"):
        with pytest.raises(ValueError, match="something else"):
            pickles.decode_array(pickles.read_pickle(WHOLE.replace(shape, promised))["data"])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "exhausted"),
        (b"\x80\x02", "exhausted"),
        (b"\x80\x02T\xff\xff\xff\x7f", "expected 2147483647 bytes in a string4, but only 0 remain"),
        (b"\x80\x02]r\xff\xff\xff\xff", "at index 4294967295"),  # Python's own reader takes 32 GB for this
        (b"\x80\x02u.", "cut off or altered"),
        (b"\x80\x02h\x01.", "cut off or altered"),
        (b"\x80\x02K\x01K\x02b.", "cut off or altered"),
        (b"(" * 1_000_001, "more than 1000000 operations"),
        (b"}(C\xff" + b"k" * 255 + b"Nu.", "a key that is not a short name"),
        (b"}(}}u.", "cut off or altered"),
        (b"}(K\x01Nu.", "a key that is not a short name"),
        (b"c" + b"m" * 99, "no newline found"),
        (b"c\\m\nname\n.", "cut off or altered"),
        (b"(i__builtin__\neval\n.", "its operation INST is none"),
        (b"\x80\x05\x96\x01\0\0\0\0\0\0\0k.", "its operation BYTEARRAY8 is none"),
        (b"\x80\x05\x96" + b"\xff" * 7 + b"\x0f", "expected 1152921504606846975 bytes"),
        (b"Pid\n.", "its operation PERSID is none"),
        (b"<html>not found</html>", "opcode b'<' unknown"),
    ],
)
def test_what_is_no_such_pickle(content: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        pickles.read_pickle(content)
    assert "\n" not in str(caught.value)


BOMBS = {
    "a long name for many dicts": b"T\x00\x00\x20\x00" + b"k" * 2**21 + b"q\x00" + b"}(h\x00Nu" * 190_000 + b".",
    "a long name encoded": b"c_codecs\nencode\nX\x00\x00\x20\x00"
    + b"k" * 2**21
    + b"N\x86Rq\x00"
    + b"}(h\x00Nu" * 190_000,
    "tuples of tuples": b"K\x01" + b"\x85" * 900_000 + b".",
    "the same list": b"]q\x00" + b"h\x00h\x00\x86" * 200_000 + b".",
    "a list in itself": b"]q\x00h\x00a.",
}


def test_a_small_pickle_takes_little_memory(tmp_path: Path) -> None:
    words = (
        "import pathlib, resource, sys\n"
        "from lightexp.datasets import pickles\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))\n"
        "for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):\n"
        "    try: pickles.read_pickle(path.read_bytes())\n"
        "    except ValueError: pass\n"
        "    print(path.name)\n"
    )
    for name, content in BOMBS.items():
        (tmp_path / name).write_bytes(content)
    done = subprocess.run([sys.executable, "-c", words, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (done.stdout.splitlines(), done.stderr) == (sorted(BOMBS), "")


@settings(max_examples=300)
@given(st.integers(0, len(WHOLE) - 1), st.integers(1, 255), st.booleans())
def test_altered_bytes_are_refused_or_change_values_only(at: int, mask: int, cut: bool) -> None:
    content = WHOLE[:at] if cut else WHOLE[:at] + bytes([WHOLE[at] ^ mask]) + WHOLE[at + 1 :]
    try:
        found = pickles.read_pickle(content)
        array = pickles.decode_array(found["data"]) if isinstance(found, dict) and "data" in found else None
    except ValueError:
        return
    assert not cut
    assert array is None or array.size == X.size


@settings(max_examples=300)
@given(st.binary(max_size=60) | st.lists(st.sampled_from(b"\x80\x02(}])NqUTK\x85\x86\x87cRbtesu.\x00\x01h")).map(bytes))
def test_anything_is_read_or_refused(content: bytes) -> None:
    refused = ""
    try:
        pickles.decode_array(pickles.read_pickle(content))
    except ValueError as error:
        refused = str(error)
    assert "\n" not in refused


def test_the_length_of_a_string_is_not_believed() -> None:
    at = WHOLE.index(b"T" + struct.pack("<I", X.nbytes))
    with pytest.raises(ValueError, match="a string4"):
        pickles.read_pickle(WHOLE[: at + 1] + struct.pack("<I", 2**31 - 1) + WHOLE[at + 5 :])
