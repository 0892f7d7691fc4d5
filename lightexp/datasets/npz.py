"""`.npz` files from anywhere: no pickle, and nothing allocated because a header says so."""

from __future__ import annotations

import math
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from lightexp.core.errors import BadInput

_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def names(path: Path, remedy: str) -> list[str]:
    """Names of the arrays in a file.

    Args:
        path: The file.
        remedy: What the user is to do about a file that cannot be used, as a sentence.

    Raises:
        BadInput: If it is not there or is no zip archive.
    """
    with _opened(path, remedy) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


def read(path: Path, name: str, remedy: str) -> NDArray[np.generic]:
    """Reads one array; it may be read-only.

    Args:
        path: The file.
        name: One of `names(path)`.
        remedy: As in `names`.

    Raises:
        BadInput: If the array is not there, is cut short or altered, or holds Python objects.
    """
    with _opened(path, remedy) as archive:
        info = archive.getinfo(f"{name}.npy")
        with archive.open(info) as file:
            version = npy.read_magic(file)
            if version not in _HEADERS:
                raise ValueError(f"{name} is in version {version} of the .npy format")
            shape, fortran, dtype = _HEADERS[version](file)
            if dtype.hasobject:
                raise BadInput(
                    f"{path}: {name} holds Python objects, which are never unpickled. Save it as plain numbers."
                )
            size = math.prod(shape) * dtype.itemsize
            if file.tell() + size != info.file_size:
                raise ValueError(f"{name}'s header announces shape {shape} of {dtype}, which is not what follows")
            body = file.read(size)  # grows with what is really there
        flat = np.frombuffer(body, dtype) if body else np.empty(0, dtype)
        return flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)


@contextmanager
def _opened(path: Path, remedy: str) -> Iterator[zipfile.ZipFile]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Python's parser, on altered headers
            with zipfile.ZipFile(path) as archive:
                yield archive
    except BadInput:
        raise
    except Exception as error:  # on altered bytes zipfile, zlib, tokenize and numpy raise a dozen kinds
        words = " ".join(str(error).split()) or type(error).__name__
        raise BadInput(f"{path} cannot be read as .npz: {words[:200]}. {remedy}") from None
