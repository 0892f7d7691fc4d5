"""Write the Keras form of a run's model for other programs: Keras 3, legacy Keras, SavedModel."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lightexp.backend import flatbuffer, sandbox
from lightexp.backend.keras3_comparison import ONE_ROUNDING, is_more_than_rounding, measure_difference
from lightexp.backend.litert import ExampleSpec, run_model
from lightexp.core.artifact import TFLITE
from lightexp.core.errors import RunFailed

_EXAMPLES = 16


def write_keras_3(folder: Path, out: Path) -> None:
    """Write a `.keras` of Keras 3, and check that Keras 3 computes from it what the run's float `.tflite` computes.

    Args:
        folder: A model that `keras_files.save_model` has written.
        out: The file.

    Raises:
        BadInput: If Keras 3 lacks one of its layers.
        RunFailed: If outputs differ, or Keras 3 cannot be imported.
    """
    graph = flatbuffer.read_graph(folder / TFLITE)
    shape = graph.tensors[graph.inputs[0]].shape[1:]
    inputs = np.random.default_rng(0).random((_EXAMPLES, *shape), np.float32)
    outputs = sandbox.run_sandboxed("write_keras_file", folder, inputs, out=str(out))
    spec = ExampleSpec("the export", tuple(shape), len(outputs[0]), "the export's outputs", 1.0, 0.0)
    expected, nearby = (run_model(folder / TFLITE, x, spec, 1, 1) for x in (inputs, inputs * ONE_ROUNDING))
    if is_more_than_rounding(outputs, expected, nearby):
        difference = measure_difference(outputs, expected)
        raise RunFailed(
            f"Keras 3 computes other outputs than the run's model: they differ by {difference:.2g}. Use --keras2 or "
            "--saved-model."
        )


def write_keras_2(folder: Path, out: Path) -> None:
    """Write an `.h5` of legacy Keras (tf_keras); see `write_keras_3`."""
    _save(folder, out, "h5")


def write_saved_model(folder: Path, out: Path) -> None:
    """Write the folder of a SavedModel; see `write_keras_3`."""
    _save(folder, out, "tf")


def _save(folder: Path, out: Path, save_format: str) -> None:
    from lightexp.backend.keras_files import load_model
    from lightexp.backend.session import hide_keras_3
    from lightexp.backend.stderr import silence_stderr

    with silence_stderr(), hide_keras_3(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras warns that the formats are old and that nothing was compiled
        load_model(folder).save(out, include_optimizer=False, save_format=save_format)


WRITERS: dict[str, Callable[[Path, Path], None]] = {
    "keras": write_keras_3,
    "keras2": write_keras_2,
    "saved_model": write_saved_model,
}
"""What writes each form of a model, from the folder of the model."""
