"""Tests of the restricted unpickler: code in a pickle does not run, and memory is bounded."""

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
from tests.datasets.files import make_pickle

X = np.random.default_rng(0).integers(0, 256, (5, 3072), np.uint8)
Y = [4, 0, 300, -7, 1]
NAMES = [f"some_s_{number}.png" for number in range(5)]
CONTENT = make_pickle(X, batch_label="training batch 1 of 5", labels=Y, filenames=NAMES)


def test_make_pickle_is_readable_by_pickle() -> None:
    batch = pickle.loads(CONTENT, encoding="bytes")
    assert batch.keys() == {b"batch_label", b"labels", b"filenames", b"data"}
    assert np.array_equal(batch[b"data"], X)
    assert (batch[b"labels"], batch[b"filenames"]) == (Y, [name.encode() for name in NAMES])


def test_read_pickle_of_python_2() -> None:
    batch = pickles.read_pickle(CONTENT)
    assert list(batch) == ["batch_label", "labels", "filenames", "data"]
    assert batch["labels"] == Y
    assert batch["filenames"] == NAMES
    assert np.array_equal(pickles.decode_array(batch["data"]), X)


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("encoded", [True, False])
def test_read_pickle_of_python_3(protocol: int, order: Any, encoded: bool) -> None:
    labels = Y * 200 + [7]  # one more than pickle writes in a batch
    names = (name.encode() if encoded else name for name in ("data", "labels"))
    batch = pickles.read_pickle(
        pickle.dumps(dict(zip(names, (np.asarray(X, order=order), labels), strict=True)), protocol)
    )
    assert np.array_equal(pickles.decode_array(batch["data"]), X)
    assert batch["labels"] == labels


class Malicious:
    """Create a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_read_pickle_runs_no_code(protocol: int, tmp_path: Path) -> None:
    content = pickle.dumps({"data": Malicious(tmp_path / "ran"), "labels": [0]}, protocol)
    with pytest.raises(ValueError, match=r"it names 'posix\.mkdir', which plain data do not need"):
        pickles.read_pickle(content)
    assert not (tmp_path / "ran").exists()
    pickle.loads(content)  # the pickle is indeed malicious
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "array",
    [X.astype(np.uint16), X.astype(object), X.view(np.int8), np.array(["a"]), np.empty((0, 3072), np.uint8)],
    ids=["uint16", "object", "int8", "text", "empty"],
)
def test_decode_array_refuses_other_types(array: Any) -> None:
    with pytest.raises(ValueError, match=r"something else|operation"):
        pickles.decode_array(pickles.read_pickle(pickle.dumps(array, 4)))


def test_decode_array_refuses_other_shape() -> None:
    shape = b"K\x05M\x00\x0c\x86"
    assert shape in CONTENT
    for other in (b"J\xff\xff\xff\x7fM\x00\x0c\x86", b"J\xff\xff\xff\xffJ\x00\xc4\xff\xff\x86", b"K\x05N\x86"):
        with pytest.raises(ValueError, match="something else"):
            pickles.decode_array(pickles.read_pickle(CONTENT.replace(shape, other))["data"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "exhausted"),
        (b"\x80\x02", "exhausted"),
        (b"\x80\x02T\xff\xff\xff\x7f", "expected 2147483647 bytes in a string4, but only 0 remain"),
        (b"\x80\x02]r\xff\xff\xff\xff", "at index 4294967295"),  # pickle would allocate 32 GB
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
def test_read_pickle_refuses_damaged_content(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
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


def test_read_pickle_memory_is_bounded(tmp_path: Path) -> None:
    script = (
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
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (done.stdout.splitlines(), done.stderr) == (sorted(BOMBS), "")


@settings(max_examples=300)
@given(st.integers(0, len(CONTENT) - 1), st.integers(1, 255), st.booleans())
def test_altered_bytes_are_refused_or_change_values(at: int, mask: int, cut: bool) -> None:
    content = CONTENT[:at] if cut else CONTENT[:at] + bytes([CONTENT[at] ^ mask]) + CONTENT[at + 1 :]
    try:
        batch = pickles.read_pickle(content)
        array = pickles.decode_array(batch["data"]) if isinstance(batch, dict) and "data" in batch else None
    except ValueError:
        array = None
    else:
        assert not cut
    assert array is None or array.size == X.size


@settings(max_examples=300)
@given(st.binary(max_size=60) | st.lists(st.sampled_from(b"\x80\x02(}])NqUTK\x85\x86\x87cRbtesu.\x00\x01h")).map(bytes))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    message = ""
    try:
        pickles.decode_array(pickles.read_pickle(content))
    except ValueError as error:
        message = str(error)
    assert "\n" not in message


def test_false_string_length_is_refused() -> None:
    at = CONTENT.index(b"T" + struct.pack("<I", X.nbytes))
    with pytest.raises(ValueError, match="a string4"):
        pickles.read_pickle(CONTENT[: at + 1] + struct.pack("<I", 2**31 - 1) + CONTENT[at + 5 :])
