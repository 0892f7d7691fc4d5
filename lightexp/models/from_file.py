"""A model that somebody else has trained, read from a file."""

from __future__ import annotations

from dataclasses import field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lightexp.core.config import Index, settings_dataclass
from lightexp.core.data import Data, Split
from lightexp.core.errors import BadInput
from lightexp.core.fingerprint import hash_path
from lightexp.core.protocols import Layer, Model, Stage
from lightexp.core.tflite_graph import TFLiteGraph

_TFLITE_MAGIC = b"TFL3"


@settings_dataclass
class FromFile(Model):
    """A trained classifier: a Keras v2 file (`.h5`, `.keras`), a SavedModel that holds a Keras model, or a `.tflite`.

    A Keras file becomes a Keras model like any other; none of its code runs. A float `.tflite`, from any framework, can
    be quantised and be a teacher; one that is quantised already can be measured. What the model takes as inputs is the
    data set's `scaling`.

    Attributes:
        path: The file, or a SavedModel's folder.
        trust: Whether a SavedModel, which can run code of its own, may be loaded. Defaults to False.
        outputs: Whether the file gives `logits` or `probabilities`. Defaults to `auto`: probabilities where its last
            operator is a softmax.
        labels: The data set's class that each output stands for, in the file's order. Defaults to None: the same order.
    """

    path: str | None = field(default=None, metadata={"keyed": False})
    trust: bool = field(default=False, metadata={"keyed": False})
    outputs: Literal["auto", "logits", "probabilities"] = "auto"
    labels: list[Index] | None = None
    digest: str = field(init=False, default="")

    def __post_init__(self) -> None:
        if self.path is not None and self.file_path.exists():
            object.__setattr__(self, "digest", hash_path(self.file_path))
        if self.labels is not None and sorted(self.labels) != list(range(len(self.labels))):
            raise ValueError(f"labels must name each class once, from 0. Received: {self.labels}.")

    @property
    def file_path(self) -> Path:
        """The file.

        Raises:
            BadInput: If none was named.
        """
        if self.path is None:
            raise BadInput("model=from_file needs a file. Received: none. Set model.path=FILE")
        return Path(self.path).expanduser().absolute()

    @property
    def is_tflite(self) -> bool:
        """Whether it is a `.tflite`, by its name or its first bytes."""
        if self.file_path.is_dir():
            return False
        with self.file_path.open("rb") as file:
            return self.file_path.suffix == ".tflite" or file.read(8)[4:] == _TFLITE_MAGIC

    @property
    def trainable(self) -> bool:
        """Whether it has Keras layers."""
        return not self.is_tflite

    def read_graph(self) -> TFLiteGraph:
        """A `.tflite` as data.

        Raises:
            BadInput: If it is broken.
        """
        from lightexp.backend import flatbuffer

        return flatbuffer.read_graph(self.file_path)

    def first_stage(self) -> Stage:
        """Return the stage that takes the file into the store; see `Model.first_stage`."""
        from lightexp.models.file_stages import make_file_stage

        return make_file_stage(self)

    def list_layers(self) -> list[Layer] | None:
        """Return the kernels of a `.tflite`, as plans list layers; see `Model.list_layers`."""
        if not self.is_tflite:
            return None
        model = self.read_graph()
        return [Layer(model.title(op, k), op.kind, k.shape, int(np.prod(k.shape))) for op, k in model.kernels]

    def check(self, shape: tuple[int, ...], classes: int) -> None:
        """Checks the file as far as that goes without TensorFlow; see `Model.check`."""
        if not self.digest:
            raise BadInput(f"model.path={self.path} is not there. Set model.path=FILE")
        if self.labels is not None and len(self.labels) != classes:
            raise BadInput(f"model.labels names {len(self.labels)} classes, the data have {classes}.")
        if self.is_tflite:
            check_shapes(self.file_path, self.read_graph(), shape, classes)
            return
        from lightexp.backend import foreign_keras

        foreign_keras.check_file(self.file_path, self.trust)

    def build(self, shape: tuple[int, ...], classes: int) -> Any:
        """The file's architecture with new weights; see `Model.build`."""
        from lightexp.backend.session import import_keras

        return import_keras().models.clone_model(self.load(shape, classes))

    def load(self, shape: tuple[int, ...], classes: int) -> Any:
        """The file's model with its weights, without a softmax at its end.

        Raises:
            BadInput: If it cannot be read, or maps other shapes than `(n, *shape)` to `(n, classes)`.
        """
        from lightexp.backend import foreign_keras

        model = foreign_keras.load_file(self.file_path, self.trust)
        if self.outputs != "logits":
            model, found = foreign_keras.remove_softmax(model)
            if self.outputs == "probabilities" and not found:
                raise BadInput(f"{self.file_path} does not end in a softmax. Set model.outputs=logits")
        takes, gives = tuple(model.input_shape[1:]), tuple(model.output_shape[1:])
        if takes != shape or gives != (classes,):
            raise _mismatch(self.file_path, takes, gives, shape, classes)
        return model

    def scaled(self, width: float) -> Model:
        """Refuses: a file has one width."""
        raise BadInput(
            "a model from a file has no narrower sibling. Name a student, such as "
            "+model@pipeline.stages.distill.student=small_cnn"
        )

    def select_view(self, data: Data) -> Data:
        """The data with its labels in the file's order; see `Model.sees`."""
        forced = {"logits": False, "probabilities": True}.get(self.outputs)
        if forced and not self.is_tflite:
            forced = None  # `load` takes the softmax away
        if self.labels is None or len(self.labels) != data.classes:  # `check` tells of the latter
            return replace(data, probabilities=forced)
        position = np.argsort(self.labels).astype(np.int32)
        train, val, test = (Split(s.x, position[s.y]) for s in data.splits.values())
        known = data.names or tuple(map(str, range(data.classes)))
        names = tuple(known[label] for label in self.labels)
        return replace(data, probabilities=forced, train=train, val=val, test=test, names=names)


def check_shapes(path: Path, model: TFLiteGraph, shape: tuple[int, ...], classes: int) -> None:
    """Refuses a `.tflite` that was made for other data.

    Raises:
        BadInput: If it does not have one input `(n, *shape)` and one output `(n, classes)`; names both.
    """
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise BadInput(
            f"{path} must have one input and one output. Received: {len(model.inputs)} and {len(model.outputs)}."
        )
    takes, gives = (model.tensors[i].shape[1:] for i in (*model.inputs, *model.outputs))
    if takes != shape or gives != (classes,):
        raise _mismatch(path, takes, gives, shape, classes)


def try_on_example(path: Path, data: Data) -> None:
    """Runs a `.tflite` on the first validation example, in a process of its own.

    Raises:
        BadInput: If LiteRT cannot run it, it kills that process, or it gives NaN, infinity or another shape.
    """
    from lightexp.backend.litert import compute_logits

    if not np.isfinite(compute_logits(path, data.val.x[:1], data, threads=1, foreign=True)).all():
        raise BadInput(f"{path} gives NaN or infinity for an example of {data.name}. Train or get it again.")


def _mismatch(path: Path, takes: tuple[int, ...], gives: tuple[int, ...], shape: tuple[int, ...], n: int) -> BadInput:
    return BadInput(f"{path} maps {takes} to {gives}; the data need {shape} to ({n},). Take those it was made for.")
