"""`.npz` files from anywhere: no pickle, and nothing allocated because a header says so."""

from __future__ import annotations

import math
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from lightexp.core.errors import BadInput, LightexpError
from lightexp.datasets import memmap

ArrayType = np.dtype[Any]
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
_RATIOS = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: 1032}
"""How many bytes one of the archive may stand for: a deflated one for four matches of 258 bytes at most."""
_PIECE = 1 << 22


def list_names(path: Path, remedy: str) -> list[str]:
    """Names of the arrays in a file.

    Args:
        path: The file.
        remedy: What the user is to do about a file that cannot be used, as a sentence.

    Raises:
        BadInput: If it is not there or is no zip archive.
    """
    with _opened(path, remedy) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


def read_array(
    path: Path,
    name: str,
    remedy: str,
    kept: Callable[[tuple[int, ...], ArrayType], ArrayType] | None = None,
    limit: float = math.inf,
) -> NDArray[np.generic]:
    """Reads one array, a piece at a time.

    Args:
        path: The file.
        name: One of `names(path)`.
        remedy: As in `names`.
        kept: Given the shape and type that the header announces, before anything is allocated, says which type the
            array is to have here; it may refuse them by raising BadInput. Defaults to None, as it is.
        limit: Bytes above which the array is on disk: see `large.room`. Defaults to none.

    Raises:
        BadInput: If the array is not there, is cut short or altered, or holds Python objects.
        RunFailed: If there is no room for it.
    """
    with _opened(path, remedy) as archive, np.errstate(all="ignore"):
        info = archive.getinfo(f"{name}.npy")
        with archive.open(info) as file:
            shape, fortran, dtype = _header(file, name)
            if dtype.hasobject:
                raise BadInput(
                    f"{path}: {name} holds Python objects, which are never unpickled. Save it as plain numbers."
                )
            count = math.prod(shape)
            if file.tell() + count * dtype.itemsize != info.file_size or info.file_size > _most(info, path):
                raise ValueError(f"{name}'s header announces shape {shape} of {dtype}, which is not what follows")
            array = memmap.allocate(shape[::-1] if fortran else shape, kept(shape, dtype) if kept else dtype, limit)
            flat = array.reshape(-1)
            step = max(1, _PIECE // dtype.itemsize)
            for start in range(0, count, step):
                wanted = min(step, count - start)
                flat[start : start + wanted] = np.frombuffer(file.read(wanted * dtype.itemsize), dtype, wanted)
            file.read(1)  # at its end the archive compares the checksum
        return array.T if fortran else array


def _header(file: IO[bytes], name: str) -> tuple[tuple[int, ...], bool, ArrayType]:
    version = npy.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"{name} is in version {version} of the .npy format")
    shape, fortran, dtype = _HEADERS[version](file)
    if not dtype.itemsize or not all(0 <= length <= sys.maxsize for length in shape):
        raise ValueError(f"{name}'s header announces shape {shape} of {dtype}")
    return shape, fortran, dtype


def _most(info: zipfile.ZipInfo, path: Path) -> int:
    """How much the bytes that are really there can be unpacked to at most."""
    there = min(info.compress_size, path.stat().st_size)
    if info.compress_type not in _RATIOS:
        raise ValueError(f"{info.filename} is neither stored nor deflated")
    return there * _RATIOS[info.compress_type]


@contextmanager
def _opened(path: Path, remedy: str) -> Iterator[zipfile.ZipFile]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Python's parser, on altered headers
            with zipfile.ZipFile(path) as archive:
                yield archive
    except LightexpError:
        raise
    except Exception as error:  # on altered bytes zipfile, zlib, tokenize and numpy raise a dozen kinds
        words = " ".join(str(error).split()) or type(error).__name__
        raise BadInput(f"{path} cannot be read as .npz: {words[:200]}. {remedy}") from None
