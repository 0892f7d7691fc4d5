"""Read `.npz` files from untrusted sources: no pickle, and no allocation beyond what the file can contain."""

from __future__ import annotations

import math
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from lightexp.core import memmap
from lightexp.core.errors import BadInput, LightexpError
from lightexp.core.regular_files import open_regular
from lightexp.core.size_limits import check_unpacked_size, compute_size_limit

CHUNK_BYTES = 1 << 22

ArrayType = np.dtype[Any]
_HEADER_READERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
_MAX_RATIOS = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: 1032}
"""Largest ratio of unpacked to packed bytes: a deflated byte encodes four matches of 258 bytes at most."""


def list_names(path: Path, remedy: str) -> list[str]:
    """Return the names of the arrays in a file.

    Args:
        path: Path of the file.
        remedy: What the user can do about an unusable file, as a sentence.

    Raises:
        BadInput: If it does not exist or is no zip archive.
    """
    with _open_archive(path, remedy) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


def check_size(path: Path, names: Iterable[str], remedy: str, max_gb: float | None) -> None:
    """Check what some arrays of a file unpack to, before any is unpacked.

    Args:
        path: Path of the file.
        names: Some of `list_names(path)`.
        remedy: What the user can do about an unusable file, as a sentence.
        max_gb: Gigabytes that they may unpack to; see `size_limits.compute_size_limit`.

    Raises:
        BadInput: If it is more.
    """
    with _open_archive(path, remedy) as archive:
        unpacked = sum(archive.getinfo(f"{name}.npy").file_size for name in names)
        check_unpacked_size(path, unpacked, compute_size_limit(path.stat().st_size, max_gb), "dataset.max_gb")


def read_shape(path: Path, name: str, remedy: str) -> tuple[int, ...]:
    """Return the shape of an array, from its header.

    Args:
        path: Path of the file.
        name: One of `list_names(path)`.
        remedy: What the user can do about an unusable file, as a sentence.

    Raises:
        BadInput: If the header is damaged.
    """
    with _open_archive(path, remedy) as archive, archive.open(f"{name}.npy") as file:
        return _read_header(file, name)[0]


def read_array(
    path: Path,
    name: str,
    remedy: str,
    choose_type: Callable[[tuple[int, ...], ArrayType], ArrayType] | None = None,
    limit: float = math.inf,
) -> NDArray[np.generic]:
    """Read an array in chunks.

    Args:
        path: Path of the file.
        name: One of `list_names(path)`.
        remedy: What the user can do about an unusable file, as a sentence.
        choose_type: Returns the type to convert to, from the shape and type in the header; called before any
            allocation, and may raise BadInput to refuse the array. Defaults to None: the type in the file.
        limit: Size in bytes above which the array is on disk; see `memmap.allocate`. Defaults to no limit.

    Returns:
        The array.

    Raises:
        BadInput: If the array does not exist, is truncated or altered, or holds Python objects.
        RunFailed: If there is no room for it.
    """
    with _open_archive(path, remedy) as archive, np.errstate(all="ignore"):
        info = archive.getinfo(f"{name}.npy")
        with archive.open(info) as file:
            shape, is_fortran, dtype = _read_header(file, name)
            if dtype.hasobject:
                raise BadInput(
                    f"{path}: {name} holds Python objects, which are never unpickled. Save it as plain numbers, "
                    f"strings as {name}.astype(str)."
                )
            count = math.prod(shape)
            size = file.tell() + count * dtype.itemsize
            if size != info.file_size or size > _limit_unpacked_size(info, path):
                raise ValueError(f"{name}'s header announces shape {shape} of {dtype}, which is not what follows")
            target_type = choose_type(shape, dtype) if choose_type else dtype
            array = memmap.allocate(shape[::-1] if is_fortran else shape, target_type, limit)
            flat = array.reshape(-1)
            step = max(1, CHUNK_BYTES // dtype.itemsize)
            for start in range(0, count, step):
                length = min(step, count - start)
                flat[start : start + length] = np.frombuffer(file.read(length * dtype.itemsize), dtype, length)
            file.read(1)  # zipfile compares the checksum at the end of the member
        return array.T if is_fortran else array


def _read_header(file: IO[bytes], name: str) -> tuple[tuple[int, ...], bool, ArrayType]:
    version = npy.read_magic(file)
    if version not in _HEADER_READERS:
        raise ValueError(f"{name} is in version {version} of the .npy format")
    shape, is_fortran, dtype = _HEADER_READERS[version](file)
    if not dtype.itemsize or not all(0 <= length <= sys.maxsize for length in shape):
        raise ValueError(f"{name}'s header announces shape {shape} of {dtype}")
    return shape, is_fortran, dtype


def _limit_unpacked_size(info: zipfile.ZipInfo, path: Path) -> int:
    """Return how many bytes a member can unpack to, from the bytes that the file really has."""
    if info.compress_type not in _MAX_RATIOS:
        raise ValueError(f"{info.filename} is neither stored nor deflated")
    packed_size = min(info.compress_size, path.stat().st_size)
    return packed_size * _MAX_RATIOS[info.compress_type]


@contextmanager
def _open_archive(path: Path, remedy: str) -> Iterator[zipfile.ZipFile]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's parser warns about altered headers
            with open_regular(path) as file, zipfile.ZipFile(file) as archive:
                yield archive
    except LightexpError:
        raise
    except Exception as error:  # on altered bytes zipfile, zlib, tokenize and numpy raise a dozen kinds
        message = " ".join(str(error).split()) or type(error).__name__
        raise BadInput(f"{path} cannot be read as .npz: {message[:200]}. {remedy}") from None
