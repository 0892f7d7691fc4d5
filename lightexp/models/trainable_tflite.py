"""A float `.tflite` whose layers are rebuilt in Keras, so that stages can train it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from pathlib import Path
from typing import Any

from lightexp.core.artifact import Artifact, Layer
from lightexp.core.config import settings_dataclass
from lightexp.core.data import Data
from lightexp.core.errors import BadInput, RunFailed
from lightexp.core.fingerprint import hash_file
from lightexp.core.model_files import find_model_problem
from lightexp.core.protocols import Context, Stage, Task
from lightexp.core.sensitivity import SensitivityTable
from lightexp.models.from_file import FromFile, check_tensor_sizes, check_weights


@settings_dataclass
class TrainableTFLite(FromFile):
    """A float `.tflite` as a Keras model; `FromFile.adapt` makes it for pipelines that train."""

    @property
    def trainable(self) -> bool:
        """True: the model has Keras layers."""
        return True

    def first_stage(self) -> Stage:
        """Return the stage that rebuilds the file; see `Model.first_stage`."""
        return RebuiltFile(str(self.file_path), self.digest)

    def list_layers(self) -> list[Layer] | None:
        """Return None: the layers are known once the model is built; see `Model.list_layers`."""
        return None

    def check(self, shape: tuple[int, ...], classes: int) -> None:
        """Check that every operator has an equivalent among Keras' layers; see `Model.check`."""
        from lightexp.backend import tflite_import

        if problem := find_model_problem(self.file_path, self.trust):
            raise BadInput(problem)
        if self.labels is not None and len(self.labels) != classes:
            raise BadInput(f"model.labels names {len(self.labels)} classes, the data have {classes}.")
        check_tensor_sizes(self.file_path, self.read_graph(), self.max_gb)
        tflite_import.describe_model(self.file_path, shape, classes, self.layout)

    def load_whole(self, shape: tuple[int, ...], classes: int) -> Any:
        """Return the rebuilt model with the file's weights, and with a final softmax if the file has one."""
        from lightexp.backend import tflite_import

        return tflite_import.load_model(self.file_path, shape, classes, self.layout)

    def load(self, shape: tuple[int, ...], classes: int, task: Task | None = None) -> Any:
        """Return the rebuilt model, without a final activation; see `FromFile.load`."""
        whole = self.load_whole(shape, classes)
        model, removed = self.remove_activation(whole, task)
        activation = task.activation if task else "softmax"
        if self.outputs == "auto" and not removed and activation and self.read_graph().ends_in(activation):
            raise BadInput(
                f"{self.file_path} ends in a {activation} that cannot be removed. Convert the model without it."
            )
        return model


@settings_dataclass
class RebuiltFile(Stage):
    """Rebuild a float `.tflite` as a Keras model, and compare their outputs on training examples.

    Attributes:
        path: Path of the file; not part of the store key.
        digest: SHA-256 of the file.
    """

    accepts = ("none",)
    compresses = False
    implicit = True
    path: str = field(metadata={"keyed": False})
    digest: str

    @property
    def needs_parent(self) -> bool:
        """False: the result is the file's model."""
        return False

    def check_data(self, data: Data) -> None:
        """Check the file's weights, and that LiteRT can run it on an example; see `Stage.check_data`."""
        from lightexp.backend import tflite_import

        check_weights(Path(self.path))
        tflite_import.run_file(Path(self.path), data, data.inputs(data.val.x[:1]))

    def describe_layers(self, layers: Sequence[Layer], table: SensitivityTable | None = None) -> list[tuple[str, str]]:
        """Say that the file becomes Keras layers; see `Stage.describe_layers`."""
        return [(Path(self.path).name, f"rebuilt as {len(layers)} Keras layers with weights, since a stage trains it")]

    def apply(self, parent: Artifact | None, context: Context) -> dict[str, Any]:
        """Rebuild the model; see `Stage.apply`."""
        from lightexp.backend import keras_files, tflite_import
        from lightexp.backend.session import reset_graph

        model, data = context.model, context.data
        if not isinstance(model, TrainableTFLite):
            raise TypeError("RebuiltFile needs a TrainableTFLite model")
        if hash_file(Path(self.path)) != self.digest:
            raise RunFailed(f"{self.path} has changed since the run began. Run the same command again.")
        reset_graph(context.seed)
        difference = tflite_import.compare_outputs(model.load_whole(data.shape, data.outputs), Path(self.path), data)
        reset_graph(context.seed)
        keras_files.save_model(model.load(data.shape, data.outputs, data.task), context.out)
        precision = " with weights in float32" if model.read_graph().quantized else ""
        note = f"rebuilt as Keras layers{precision}; outputs differ from the file's by {difference:.0e} of their range"
        return {"difference": difference, "note": note}
