"""Tests of reading `.npz` files: complete or refused, in bounded memory."""

from __future__ import annotations

import io
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightexp.core.errors import BadInput
from lightexp.datasets import npz

REMEDY = "Save it again."
A = np.random.default_rng(0).integers(0, 9, (3, 40, 5))


@pytest.fixture(params=[0, 1_000_000], ids=["disk", "memory"])
def limit(request: pytest.FixtureRequest) -> int:
    """Return the size in bytes above which arrays are on disk."""
    return int(request.param)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return the path of the file."""
    return tmp_path / "a.npz"


def refusal(path: Path, name: str = "a") -> str:
    """Return the one-line message with which an array is refused; checks that little memory is used."""
    tracemalloc.start()
    try:
        with pytest.raises(BadInput) as caught:
            npz.read_array(path, name, REMEDY)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(str(path))
    assert line.endswith((REMEDY, "strings as a.astype(str)."))
    return line


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize(
    "array", [A, A[..., 0].T, A.T, A.astype(">f4"), A > 4, A[:0], np.float64(3), A.astype("U3"), A[::2]]
)
def test_read_saved_array(save: Any, array: Any, limit: int, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npz, "CHUNK_BYTES", 100)
    save(file, a=array, b=A)
    assert npz.list_names(file, REMEDY) == ["a", "b"]
    array_read = npz.read_array(file, "a", REMEDY, limit=limit)
    assert array_read.dtype == array.dtype
    assert np.array_equal(array_read, array)
    assert isinstance(array_read, np.memmap) == (limit == 0 and array.size > 0)


def test_choose_type_converts_or_refuses(limit: int, file: Path) -> None:
    np.savez(file, a=A.astype(float) * 1e200)
    calls: list[Any] = []

    def choose_type(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.dtype[Any]:
        calls.append((shape, dtype))
        return np.dtype(np.float32)

    array_read = npz.read_array(file, "a", REMEDY, choose_type, limit)
    assert calls == [(A.shape, np.float64)]
    assert array_read.dtype == np.float32
    assert np.isinf(array_read.max())

    def refuse(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.dtype[Any]:
        raise BadInput("not these")

    with pytest.raises(BadInput, match=r"^not these$"):
        npz.read_array(file, "a", REMEDY, refuse, limit)


def test_checksum_of_last_bytes_is_checked(file: Path) -> None:
    """A deflated member may return its last byte before its checksum is compared."""
    for compress in (np.savez, np.savez_compressed):
        compress(file, a=A)
        content = bytearray(file.read_bytes())
        with zipfile.ZipFile(file) as archive:
            crc = archive.getinfo("a.npy").CRC.to_bytes(4, "little")
        file.write_bytes(content.replace(crc, bytes(4)))
        assert "Bad CRC-32" in refusal(file)


def header(shape: str, kind: str = "|u1") -> bytes:
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}}}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("size", [4_000_000_000, 4_294_967_000])
def test_false_sizes_do_not_allocate(method: int, size: int, file: Path) -> None:
    start = header(f"({size},)")
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("a.npy", start + bytes(1000))
        info = archive.getinfo("a.npy")
        info.file_size = len(start) + size
        if method == zipfile.ZIP_STORED:
            info.compress_size = info.file_size
    assert "which is not what follows" in refusal(file)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compression_methods_are_refused(method: int, file: Path) -> None:
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("a.npy", header("(1000000,)") + bytes(1_000_000))
    assert "neither stored nor deflated" in refusal(file)


@pytest.mark.parametrize(
    "shape", ["(1000000000000, 1000000000000)", "(-1, -1000)", "(1000, 9999999999999999999999, 0)", "(1001,)", "(999,)"]
)
def test_shape_of_other_size_is_refused(shape: str, file: Path) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.npy", header(shape) + bytes(1000))
    assert "header announces shape" in refusal(file)


def test_python_objects_are_refused(file: Path) -> None:
    np.savez(file, a=np.array([{}, print], object))
    assert "a holds Python objects" in refusal(file)


def test_missing_array_is_refused(file: Path) -> None:
    np.savez(file, b=A)
    assert "cannot be read as .npz" in refusal(file)


def make_file(compress: bool) -> bytes:
    buffer = io.BytesIO()
    (np.savez_compressed if compress else np.savez)(buffer, a=A)
    return buffer.getvalue()


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data(), st.booleans(), st.booleans())
def test_altered_file_is_refused_or_read(limit: int, file: Path, draw: Any, compress: bool, cut: bool) -> None:
    content = bytearray(make_file(compress))
    for _ in range(draw.draw(st.integers(1, 3))):
        content[draw.draw(st.integers(0, len(content) - 1))] = draw.draw(st.integers(0, 255))
    file.write_bytes(content[: draw.draw(st.integers(0, len(content) - 1))] if cut else content)
    line = ""
    try:
        array_read = npz.read_array(file, "a", REMEDY, limit=limit)
    except BadInput as error:
        line = str(error)
    else:
        assert np.array_equal(array_read, A)
    assert "\n" not in line
