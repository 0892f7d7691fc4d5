"""Extract architecture and weights from a Keras file as plain data; runs in the sandbox.

A damaged HDF5 file can crash the process that reads it.
"""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from lightexp.core.errors import BadInput
from lightexp.core.json_text import encode_json
from lightexp.core.regular_files import open_regular

ARCHITECTURE = "architecture.json"
LEGACY_WEIGHTS, ARCHIVE_WEIGHTS = "weights.h5", "model.weights.h5"
"""Weights in the layout of `.h5` files, and in that of `.keras` archives, whose file name is fixed."""
_HDF5_MAGIC, _ZIP_MAGIC = b"\x89HDF\r\n\x1a\n", b"PK\x03\x04"
_MAX_BYTES = 4 * 2**30  # far more than a model for a small device has
_MAX_DEPTH = 20  # of nested HDF5 groups


def extract(path: Path, unused: NDArray[Any], out: str) -> NDArray[Any]:
    """Write a file's architecture, unchecked, and a copy of its weights that holds arrays and strings but no links.

    Args:
        path: An `.h5` file, or a `.keras` archive of Keras 2.
        unused: An array; calls of the sandbox pass one.
        out: Folder to write `ARCHITECTURE` and either `LEGACY_WEIGHTS` or `ARCHIVE_WEIGHTS` into.

    Returns:
        `unused`.

    Raises:
        BadInput: If the file is of another kind, is damaged, lacks an architecture or was written by Keras 3.
    """
    with open_regular(path) as file:
        start = file.read(8)
    try:
        if start == _HDF5_MAGIC:
            _extract_hdf5(path, Path(out))
        elif start[:4] == _ZIP_MAGIC:
            _extract_archive(path, Path(out))
        else:
            raise BadInput(f"{path} is no Keras file: neither HDF5 (.h5) nor a .keras archive. Save the model again.")
    except BadInput:
        raise
    except Exception as error:  # h5py and zipfile raise many types for damaged files
        raise BadInput(f"{path} is broken ({' '.join(str(error).split())[:120]}). Get or save it again.") from error
    return unused


def _extract_hdf5(path: Path, out: Path) -> None:
    with h5py.File(path, "r") as file:
        _check_version(path, _decode(file.attrs.get("keras_version", "2")))
        if "model_config" not in file.attrs:
            raise BadInput(f"{path} holds weights alone, without an architecture. Save the whole model: model.save().")
        (out / ARCHITECTURE).write_text(encode_json(json.loads(_decode(file.attrs["model_config"]))), encoding="utf-8")
        with h5py.File(out / LEGACY_WEIGHTS, "w") as clean:
            _copy_group(file["model_weights"], clean)


def _extract_archive(path: Path, out: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        if sum(member.file_size for member in archive.infolist()) > _MAX_BYTES:
            raise ValueError("it unpacks to more than 4 GB")
        _check_version(path, json.loads(archive.read("metadata.json"))["keras_version"])
        (out / ARCHITECTURE).write_text(encode_json(json.loads(archive.read("config.json"))), encoding="utf-8")
        weights = io.BytesIO(archive.read(ARCHIVE_WEIGHTS))
        with h5py.File(weights, "r") as file, h5py.File(out / ARCHIVE_WEIGHTS, "w") as clean:
            _copy_group(file, clean)


def _check_version(path: Path, version: str) -> None:
    if version.split(".")[0] not in ("1", "2"):
        raise BadInput(
            f"{path} was written by Keras {version}; lightexp reads Keras 2. Where it was made, run "
            'model.export("model.tflite", format="litert") (or tf.lite.TFLiteConverter.from_keras_model(model)) '
            "and set model.path to the float .tflite"
        )


def _decode(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _copy_group(source: h5py.Group, target: h5py.Group, depth: int = 0) -> None:
    """Copy attributes, groups and numeric data sets; refuse links and data outside the file."""
    if depth > _MAX_DEPTH:
        raise ValueError("groups within groups without end")
    for name, value in source.attrs.items():
        target.attrs[name] = value
    for name in source:
        if not isinstance(source.get(name, getlink=True), h5py.HardLink):
            raise ValueError(f"{name} is a link to elsewhere")
        child = source[name]
        if isinstance(child, h5py.Group):
            _copy_group(child, target.create_group(name), depth + 1)
            continue
        if child.external or child.is_virtual or child.dtype.kind not in "biuf" or child.nbytes > _MAX_BYTES:
            raise ValueError(f"{name} is not an array of numbers")
        target.create_dataset(name, data=np.asarray(child))
