"""Stages that store a model from a file, as the first stage of a pipeline."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import field
from pathlib import Path
from typing import Any

from lightexp.core.config import settings_dataclass
from lightexp.core.data import Data
from lightexp.core.errors import BadInput, RunFailed
from lightexp.core.fingerprint import compute_key, hash_file
from lightexp.core.layout import find_layout
from lightexp.core.protocols import TFLITE, Artifact, Context, Form, Layer, Stage
from lightexp.core.regular_files import open_regular
from lightexp.core.sensitivity import SensitivityTable
from lightexp.models.from_file import FromFile, check_shapes, check_tensor_sizes, try_on_example

_tried_files: set[tuple[str, str, str]] = set()
"""Paths, digests and keys of the data of files that this process has run on an example."""


@settings_dataclass
class ModelFile(Stage):
    """Store a `.tflite`, which the plan has run on an example.

    Attributes:
        path: Path of the file; not part of the store key.
        digest: SHA-256 of the file.
        quantized: Whether the file is quantised, so that it can only be measured. Defaults to False.
    """

    accepts = ("none",)
    compresses = False
    implicit = True
    foreign = True
    needs_tensorflow = False
    path: str = field(metadata={"keyed": False})
    digest: str
    quantized: bool = False

    @property
    def produces(self) -> Form:  # type: ignore[override]
        """Form of the file: `quantized` or `tflite`."""
        return "quantized" if self.quantized else "tflite"

    @property
    def needs_parent(self) -> bool:
        """False: the result is the file."""
        return False

    def check_data(self, data: Data) -> None:
        """Check that LiteRT can run the file on an example, once for all trials of a study; see `Stage.check_data`."""
        key = self.path, self.digest, compute_key(data.key)
        if key not in _tried_files:
            try_on_example(Path(self.path), data)
            _tried_files.add(key)

    def describe_layers(self, layers: Sequence[Layer], table: SensitivityTable | None = None) -> list[tuple[str, str]]:
        """Say that the file stays as it is; see `Stage.describe_layers`."""
        return [(Path(self.path).name, "stays the file itself, byte by byte, since no stage trains it")]

    def apply(self, parent: Artifact | None, context: Context) -> dict[str, Any]:
        """Copy the file; see `Stage.apply`."""
        copy = context.out / TFLITE
        with open_regular(Path(self.path)) as source, copy.open("xb") as target:
            shutil.copyfileobj(source, target)
        if hash_file(copy) != self.digest:
            raise RunFailed(f"{self.path} has changed since the run began. Run the same command again.")
        return {}


@settings_dataclass
class KerasFile(Stage):
    """Store the model of a Keras file, whose path is known to the architecture, `FromFile`."""

    accepts = ("none",)
    compresses = False
    implicit = True
    version = 2

    def apply(self, parent: Artifact | None, context: Context) -> dict[str, Any]:
        """Load the file, and compare it with Keras 3 if that wrote the file; see `Stage.apply`."""
        from lightexp.backend import foreign_keras, keras3_comparison, keras_files
        from lightexp.backend.session import reset_graph

        if not isinstance(context.model, FromFile):
            raise TypeError("KerasFile needs a FromFile model")
        reset_graph(context.seed)
        file, data = context.model, context.data
        foreign = file.load_foreign(data.shape, data.outputs, data.task)
        layout = find_layout(data.shape, tuple(foreign.model.input_shape[1:]), file.layout)
        assert layout is not None  # `load_foreign` has checked it
        inputs = layout.arrange(data.inputs(data.val.x[: keras3_comparison.EXAMPLES]))
        notes = [keras3_comparison.compare_outputs(file.file_path, foreign, inputs, file.max_gb)]
        if foreign.left_out:
            notes.append(f"left out, as they only augment data: {', '.join(foreign.left_out)} (see dataset.augment)")
        keras_files.save_model(
            foreign_keras.fit_ends(foreign.model, data.shape, data.outputs, file.layout), context.out
        )
        return {"note": "; ".join(filter(None, notes))} if any(notes) else {}


def make_teacher_stage(file: str, data: Data, place: str) -> ModelFile:
    """Return the stage that stores a teacher's float `.tflite`.

    Args:
        file: Path of the file.
        data: The data set that it has to fit.
        place: Where the config names the file, for messages.

    Raises:
        BadInput: If there is no such file, it does not fit the data, or LiteRT cannot run it.
    """
    from lightexp.backend import flatbuffer

    path = Path(file).expanduser()
    if path.suffix != ".tflite" or not path.is_file():
        raise BadInput(
            f"{place} must be 'control', a float .tflite file that exists, or a list of overrides. Received: {file}."
        )
    graph = flatbuffer.read_graph(path)
    check_tensor_sizes(path, graph)
    check_shapes(path, graph, data.shape, data.outputs)
    try_on_example(path, data)
    return ModelFile(str(path.absolute()), hash_file(path))


def make_file_stage(model: FromFile) -> ModelFile | KerasFile:
    """Return the stage that stores a model's file.

    Raises:
        BadInput: If there is no such file, or it is a damaged `.tflite`.
    """
    if not model.digest:
        model.check((), 0)  # raises BadInput with the reason
    if model.is_tflite:
        return ModelFile(str(model.file_path), model.digest, model.read_graph().quantized)
    return KerasFile()
