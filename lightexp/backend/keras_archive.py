"""What a Keras file holds, as data: runs apart, since a damaged HDF5 file can kill whoever reads it."""

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

ARCHITECTURE = "architecture.json"
LEGACY, NAMED = "weights.h5", "model.weights.h5"  # the latter is the layout, and the name, of `.keras`
_HDF5, _ZIP = b"\x89HDF\r\n\x1a\n", b"PK\x03\x04"
_BYTES = 4 * 2**30  # nobody's model for a phone is larger


def extract(path: Path, nothing: NDArray[Any], out: str) -> NDArray[Any]:
    """Writes the architecture, unchecked, and a clean copy of the weights: arrays, strings and no links.

    Args:
        path: `.h5`, or a `.keras` of Keras 2.
        nothing: Unused; every call apart has an array.
        out: The folder to write `ARCHITECTURE` and either `LEGACY` or `NAMED` into.

    Returns:
        Nothing.

    Raises:
        BadInput: If it is neither, is damaged, lacks an architecture or is of Keras 3.
    """
    start = path.open("rb").read(8)
    try:
        if start == _HDF5:
            _legacy(path, Path(out))
        elif start[:4] == _ZIP:
            _archive(path, Path(out))
        else:
            raise BadInput(f"{path} is no Keras file: neither HDF5 (.h5) nor a .keras archive. Save the model again.")
    except BadInput:
        raise
    except Exception as error:  # h5py and zipfile raise many kinds at a damaged file
        raise BadInput(f"{path} is broken ({' '.join(str(error).split())[:120]}). Get or save it again.") from error
    return nothing


def _legacy(path: Path, out: Path) -> None:
    with h5py.File(path, "r") as file:
        _check_version(path, _text(file.attrs.get("keras_version", "2")))
        if "model_config" not in file.attrs:
            raise BadInput(f"{path} holds weights alone, without an architecture. Save the whole model: model.save().")
        (out / ARCHITECTURE).write_text(json.dumps(json.loads(_text(file.attrs["model_config"]))))
        with h5py.File(out / LEGACY, "w") as clean:
            _copy(file["model_weights"], clean)


def _archive(path: Path, out: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        if sum(member.file_size for member in archive.infolist()) > _BYTES:
            raise ValueError("it unpacks to more than 4 GB")
        _check_version(path, json.loads(archive.read("metadata.json"))["keras_version"])
        (out / ARCHITECTURE).write_text(json.dumps(json.loads(archive.read("config.json"))))
        with h5py.File(io.BytesIO(archive.read(NAMED)), "r") as file, h5py.File(out / NAMED, "w") as clean:
            _copy(file, clean)


def _check_version(path: Path, version: str) -> None:
    if version.split(".")[0] not in ("1", "2"):
        raise BadInput(
            f"{path} was written by Keras {version}; lightexp reads Keras 2. Where it was made, run "
            'model.export("model.tflite", format="litert") (or tf.lite.TFLiteConverter.from_keras_model(model)) '
            "and set model.path to the float .tflite"
        )


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _copy(source: h5py.Group, target: h5py.Group, depth: int = 0) -> None:
    if depth > 20:
        raise ValueError("groups within groups without end")
    for name, value in source.attrs.items():
        target.attrs[name] = value
    for name in source:
        if not isinstance(source.get(name, getlink=True), h5py.HardLink):
            raise ValueError(f"{name} is a link to elsewhere")
        child = source[name]
        if isinstance(child, h5py.Group):
            _copy(child, target.create_group(name), depth + 1)
            continue
        if child.external or child.is_virtual or child.dtype.kind not in "biuf" or child.nbytes > _BYTES:
            raise ValueError(f"{name} is not an array of numbers")
        target.create_dataset(name, data=np.asarray(child))
