"""Compare a rebuilt model with the outputs that Keras 3 computes from the same file."""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from lightexp.backend import sandbox
from lightexp.backend.foreign_keras import ForeignModel, extract_architecture, is_keras_3
from lightexp.backend.keras3_config import ALTERNATIVE, Config
from lightexp.backend.keras_archive import ARCHIVE_WEIGHTS, LEGACY_WEIGHTS
from lightexp.core.errors import BadInput
from lightexp.core.json_text import encode_json

EXAMPLES = 16
"""Examples that both models are given."""
_TOLERANCE = 1e-4  # of the largest output
_ROUNDINGS = 10  # differences of this many roundings are allowed too: deep networks can enlarge one to 1e-4
ONE_ROUNDING = np.float32(1 + 2**-23)
"""Factor on inputs that shows how much a network enlarges the rounding of a number."""


def compare_outputs(path: Path, foreign: ForeignModel, inputs: NDArray[np.float32], max_gb: float | None) -> str:
    """Check that a model rebuilt from a Keras 3 file computes what Keras 3 computes from the file.

    Keras 3 is given a copy with the names that have been checked and plain arrays, in a process of its own.

    Args:
        path: The file.
        foreign: The rebuilt model.
        inputs: Examples.
        max_gb: Gigabytes that the file may unpack to; see `foreign_keras.check_file`.

    Returns:
        One line on the result; empty for a file of another version of Keras, which is not rebuilt.

    Raises:
        BadInput: If an output differs.
        RunFailed: If Keras 3 cannot be imported.
    """
    if path.is_dir():
        return ""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        architecture = extract_architecture(path, folder, max_gb)
        if not is_keras_3(folder):
            return ""
        copy = _write_copy(folder, architecture)
        try:
            expected = sandbox.run_sandboxed("compute_keras_outputs", copy, inputs)
        except BadInput as error:
            reason = str(error).replace(str(copy), path.name)[:160]
            return f"not compared with Keras 3, which cannot load the file itself ({reason})"
    outputs = _compute_outputs(foreign, inputs)
    difference = measure_difference(outputs, expected)
    if is_more_than_rounding(outputs, expected, _compute_outputs(foreign, inputs * ONE_ROUNDING)):
        raise BadInput(
            f"{path} cannot be rebuilt exactly: outputs differ from Keras 3's by {difference:.2g}. {ALTERNATIVE}"
        )
    return f"outputs of {len(inputs)} examples differ from Keras 3's by at most {difference:.1g}"


def is_more_than_rounding(outputs: NDArray[Any], expected: NDArray[Any], nearby: NDArray[Any]) -> bool:
    """Return whether two programs compute different functions.

    Args:
        outputs: Outputs of one program.
        expected: Outputs of the other.
        nearby: Outputs of one of them for `inputs * ONE_ROUNDING`.
    """
    rounding = min(measure_difference(outputs, nearby), measure_difference(expected, nearby))
    limit = max(_TOLERANCE * float(np.abs(expected).max()), _ROUNDINGS * rounding)
    return not measure_difference(outputs, expected) <= limit


def _compute_outputs(foreign: ForeignModel, inputs: NDArray[np.float32]) -> NDArray[Any]:
    """Return the outputs of a rebuilt model with the activation that was removed from its end."""
    outputs = np.asarray(foreign.model(inputs, training=False))
    if foreign.removed == "sigmoid":
        return np.asarray(1 / (1 + np.exp(-outputs)))
    if foreign.removed == "softmax":
        outputs = np.exp(outputs - outputs.max(axis=-1, keepdims=True))
        outputs /= outputs.sum(axis=-1, keepdims=True)
    return outputs


def measure_difference(outputs: NDArray[Any], expected: NDArray[Any]) -> float:
    """Return the largest difference of two arrays; infinity for other shapes."""
    return float(np.abs(outputs - expected).max()) if outputs.shape == expected.shape else np.inf


def _write_copy(folder: Path, architecture: Config) -> Path:
    """Write a file for Keras 3 of the content that was extracted into `folder`."""
    config = encode_json(architecture)
    if (folder / ARCHIVE_WEIGHTS).exists():
        copy = folder / "copy.keras"
        with zipfile.ZipFile(copy, "w") as archive:
            archive.writestr("metadata.json", encode_json({"keras_version": "3.0.0"}))
            archive.writestr("config.json", config)
            archive.write(folder / ARCHIVE_WEIGHTS, ARCHIVE_WEIGHTS)
        return copy
    copy = folder / "copy.h5"
    with h5py.File(folder / LEGACY_WEIGHTS, "r") as weights, h5py.File(copy, "w") as target:
        weights.copy(weights, target, "model_weights")
        target.attrs["keras_version"] = "3.0.0"
        target.attrs["model_config"] = config
    return copy
