"""A trained model that is read from a Keras file or a `.tflite`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lightexp.core.config import Index, Positive, settings_dataclass
from lightexp.core.data import Data, Split
from lightexp.core.errors import BadInput, RunFailed
from lightexp.core.fingerprint import hash_path
from lightexp.core.layout import LayoutChoice, describe_layout, find_layout, has_outputs, make_mismatch_error
from lightexp.core.model_files import find_model_problem
from lightexp.core.protocols import Layer, Model, Stage, Task
from lightexp.core.regular_files import open_regular
from lightexp.core.size_limits import check_unpacked_size, compute_size_limit
from lightexp.core.tflite_graph import TFLiteGraph
from lightexp.core.training import Training

if TYPE_CHECKING:
    from lightexp.backend.foreign_keras import ForeignModel
    from lightexp.backend.keras_ends import ModelEnds

_TFLITE_MAGIC = b"TFL3"


@settings_dataclass
class FromFile(Model):
    """A trained classifier from a file.

    The file is a Keras file (`.h5` or `.keras`, of Keras 2 or 3), a SavedModel that holds a Keras model, or a
    `.tflite`. A Keras file becomes a Keras model that all stages accept; code in the file does not run. So does a float
    `.tflite`, from any framework, if a stage trains it; stages after training work on the file as it is. A quantised
    one can only be measured. The range of the model's inputs is set by the data set's `scaling`.

    Attributes:
        path: Path of the file, or of a SavedModel's folder.
        trust: Whether a SavedModel, which can run code, may be loaded. Defaults to False.
        outputs: Whether the file returns `logits` or `probabilities`. Defaults to `auto`: probabilities if its last
            operator is a softmax, or a sigmoid where the task has a probability for each output.
        layout: Order of the axes of the file's inputs: channels last (`nhwc`) or first (`nchw`). Defaults to `auto`:
            what fits the data.
        labels: The data set's class of each output, in the file's order. Defaults to None: the same order.
        max_gb: Gigabytes that a Keras file may unpack to, and that a tensor of the model may take. Defaults to None:
            256 MB and 100 times the file's size.
    """

    path: str | None = field(default=None, metadata={"keyed": False})
    trust: bool = field(default=False, metadata={"keyed": False})
    outputs: Literal["auto", "logits", "probabilities"] = "auto"
    layout: LayoutChoice = "auto"
    labels: list[Index] | None = None
    max_gb: Positive | None = field(default=None, metadata={"keyed": False})
    digest: str = field(init=False, default="")

    def __post_init__(self) -> None:
        if self.path is not None and find_model_problem(self.file_path, self.trust) is None:
            object.__setattr__(self, "digest", hash_path(self.file_path))
        if self.labels is not None and sorted(self.labels) != list(range(len(self.labels))):
            raise ValueError(f"labels must name each class once, from 0. Received: {self.labels}.")

    @property
    def file_path(self) -> Path:
        """Absolute path of the file.

        Raises:
            BadInput: If no file is named.
        """
        if self.path is None:
            raise BadInput("model=from_file needs a file. Received: none. Set model.path=FILE")
        return Path(self.path).expanduser().absolute()

    @property
    def is_tflite(self) -> bool:
        """Whether the file is a `.tflite`, by its name or its first bytes."""
        if not self.file_path.is_file():
            return False
        with open_regular(self.file_path) as file:
            return self.file_path.suffix == ".tflite" or file.read(8)[4:] == _TFLITE_MAGIC

    @property
    def trainable(self) -> bool:
        """Whether the file has Keras layers; see `Model.trainable`."""
        return not self.is_tflite

    @property
    def input_shape(self) -> tuple[int | None, ...] | None:
        """Shape of the inputs that the file takes, None where it is open; None for a SavedModel or a missing file."""
        if not self.digest:
            return None  # `check` says why
        if self.is_tflite:
            graph = self.read_graph()
            return graph.tensors[graph.inputs[0]].shape[1:] if graph.inputs else None
        return _read_keras_ends(self.file_path, self.digest, self.trust, self.max_gb).input_shape

    @property
    def is_one_sigmoid(self) -> bool:
        """Whether the file's output is one sigmoid; see `Model.is_one_sigmoid`."""
        if not self.digest:
            return False  # `check` says why
        if self.is_tflite:
            graph = self.read_graph()
            shapes = [graph.tensors[index].shape[1:] for index in graph.outputs]
            return len(shapes) == 1 and math.prod(shapes[0]) == 1 and graph.ends_in("sigmoid")
        return _read_keras_ends(self.file_path, self.digest, self.trust, self.max_gb).is_one_sigmoid

    @property
    def input_rank(self) -> int | None:
        """Number of axes of the examples that the file takes; see `Model.input_rank`."""
        return None if (shape := self.input_shape) is None else len(shape)

    def read_graph(self) -> TFLiteGraph:
        """Return the graph of a `.tflite`.

        Raises:
            BadInput: If the file is damaged.
        """
        from lightexp.backend import flatbuffer

        return flatbuffer.read_graph(self.file_path)

    def adapt(self, stages: Sequence[Stage]) -> Model:
        """Return the model as Keras layers if it is a float `.tflite` and a stage trains it; see `Model.adapt`."""
        if self.digest and self.is_tflite and any(map(_needs_layers, stages)) and self.read_graph().computes_in_float:
            from lightexp.models.trainable_tflite import TrainableTFLite

            return TrainableTFLite(
                self.path, outputs=self.outputs, layout=self.layout, labels=self.labels, max_gb=self.max_gb
            )
        return self

    def first_stage(self) -> Stage:
        """Return the stage that takes the file into the store; see `Model.first_stage`."""
        from lightexp.models.file_stages import make_file_stage

        return make_file_stage(self)

    def list_layers(self) -> list[Layer] | None:
        """Return the kernels of a `.tflite`, as plans list layers; see `Model.list_layers`."""
        if not self.is_tflite:
            return None
        graph = self.read_graph()
        return [
            Layer(graph.title(op, kernel), op.kind, kernel.shape, int(np.prod(kernel.shape)))
            for op, kernel in graph.kernels
        ]

    def check(self, shape: tuple[int, ...], classes: int) -> None:
        """Check the file as far as possible without TensorFlow; see `Model.check`."""
        problem = find_model_problem(self.file_path, self.trust)
        if problem or not self.digest:
            raise BadInput(problem or f"{self.path} has appeared since the run began. Run the same command again.")
        if self.labels is not None and len(self.labels) != classes:
            raise BadInput(f"model.labels names {len(self.labels)} classes, the data have {classes}.")
        if self.is_tflite:
            graph = self.read_graph()
            check_tensor_sizes(self.file_path, graph, self.max_gb)
            check_shapes(self.file_path, graph, shape, classes, self.layout)
            return
        from lightexp.backend import foreign_keras

        foreign_keras.check_file(self.file_path, self.trust, self.max_gb)

    def build(self, shape: tuple[int, ...], classes: int) -> Any:
        """Return the file's architecture with new weights; see `Model.build`."""
        from lightexp.backend.session import import_keras

        return import_keras().models.clone_model(self.load(shape, classes))

    def load(self, shape: tuple[int, ...], classes: int, task: Task | None = None) -> Any:
        """Return the file's model with its weights for the data, without a final activation; see `load_foreign`."""
        from lightexp.backend.foreign_keras import fit_ends

        return fit_ends(self.load_foreign(shape, classes, task).model, shape, classes, self.layout)

    def load_foreign(self, shape: tuple[int, ...], classes: int, task: Task | None = None) -> ForeignModel:
        """Read a Keras file's model, without a final softmax or sigmoid that the task has.

        Args:
            shape: Shape of an example.
            classes: Number of outputs.
            task: See `remove_activation`.

        Raises:
            BadInput: If it cannot be read, or maps other shapes than `(n, *shape)` to `(n, classes)`.
        """
        from lightexp.backend import foreign_keras

        foreign = foreign_keras.load_file(self.file_path, self.trust, self.max_gb, shape)
        model, removed = self.remove_activation(foreign.model, task)
        foreign = replace(foreign, model=model, removed=removed)
        input_shape, output_shape = tuple(model.input_shape[1:]), tuple(model.output_shape[1:])
        if find_layout(shape, input_shape, self.layout) is None or not has_outputs(output_shape, classes, input_shape):
            raise make_mismatch_error(self.file_path, input_shape, output_shape, shape, classes)
        return foreign

    def remove_activation(self, model: Any, task: Task | None = None) -> tuple[Any, str | None]:
        """Return the model that gives logits, and what was removed; with `outputs: logits`, the model as it is.

        Args:
            model: The model.
            task: What is learnt, whose `activation` is removed. Defaults to None: a softmax or sigmoid, unless there
                are as many outputs as inputs, as of an autoencoder.

        Raises:
            BadInput: If the model has no such activation at its end, and `outputs` says that it gives probabilities.
        """
        from lightexp.backend import foreign_keras

        if self.outputs == "logits":
            return model, None
        activations = foreign_keras.list_activations(model) if task is None else list(filter(None, [task.activation]))
        for activation in activations:
            logits_model, is_removed = foreign_keras.remove_activation(model, activation)
            if is_removed:
                return logits_model, activation
        if self.outputs == "probabilities" and activations:
            raise BadInput(f"{self.file_path} does not end in a {' or '.join(activations)}. Set model.outputs=logits")
        return model, None

    def scaled(self, width: float) -> Model:
        """Raise BadInput, since a file has only one width; see `Model.scaled`."""
        raise BadInput(
            "a model from a file has no narrower sibling. Name a student, such as "
            "+model@pipeline.stages.distill.student=small_cnn"
        )

    def select_view(self, data: Data) -> Data:
        """Return the data with its labels in the file's order; see `Model.select_view`."""
        data = data.task.use_own_unit(data)
        probabilities: bool | None = None
        if self.outputs == "logits":
            probabilities = False
        elif self.outputs == "probabilities" and not self.trainable:  # `load` removes a softmax among Keras layers
            probabilities = True
        data = replace(data, layout=self.layout, notes=(*data.notes, *self._describe_layout(data.shape)))
        if self.labels is None or len(self.labels) != data.outputs:  # `check` refuses the latter
            return replace(data, probabilities=probabilities)
        if data.train.y.ndim == 2:
            train, val, test = (replace(split, y=split.y[:, self.labels]) for split in data.splits.values())
            names = tuple(data.names[label] for label in self.labels) if data.names else ()
            return replace(data, probabilities=probabilities, train=train, val=val, test=test, names=names)
        position = np.argsort(self.labels).astype(np.int32)
        train, val, test = (Split(split.x, position[split.y]) for split in data.splits.values())
        class_names = data.names or tuple(map(str, range(data.classes)))
        names = tuple(class_names[label] for label in self.labels)
        return replace(data, probabilities=probabilities, train=train, val=val, test=test, names=names)

    def _describe_layout(self, example: tuple[int, ...]) -> tuple[str, ...]:
        """Return a sentence on how examples of the data become inputs, if they do not stay as they are."""
        expected = tuple(length for length in self.input_shape or () if length is not None)
        if not expected or len(expected) != len(self.input_shape or ()):
            return ()  # lengths that the file leaves open are the data's
        layout = find_layout(example, expected, self.layout)  # `check` refuses what does not fit
        sentence = describe_layout(example, layout) if layout else None
        return (sentence,) if sentence else ()


@cache
def _read_keras_ends(path: Path, digest: str, trust: bool, max_gb: float | None) -> ModelEnds:
    from lightexp.backend import keras_ends

    return keras_ends.read_ends(path, trust, max_gb)


def _needs_layers(stage: Stage) -> bool:
    """Return whether a stage works on Keras layers: it takes no `.tflite`, or its objective compares hidden layers."""
    return "tflite" not in stage.accepts or (isinstance(stage, Training) and stage.objective.matched is not None)


def check_tensor_sizes(path: Path, graph: TFLiteGraph, max_gb: float | None = None) -> None:
    """Check that no tensor of a `.tflite` takes far more memory than the file.

    Args:
        path: Path of the file.
        graph: The file's graph.
        max_gb: Gigabytes that a tensor may take; see `size_limits.compute_size_limit`. Defaults to None.

    Raises:
        BadInput: If one does.
    """
    largest = max((math.prod(max(1, length) for length in tensor.shape) for tensor in graph.tensors), default=0)
    limit = compute_size_limit(path.stat().st_size, max_gb)
    check_unpacked_size(path, 4 * largest, limit, "model.max_gb", "computes a tensor of")


def check_shapes(
    path: Path, graph: TFLiteGraph, shape: tuple[int, ...], classes: int, layout: LayoutChoice = "auto"
) -> None:
    """Check that a `.tflite` was made for the data.

    Args:
        path: Path of the file.
        graph: The file's graph.
        shape: Shape of an example.
        classes: Number of classes.
        layout: Order of the axes of the file's input. Defaults to `auto`: what fits.

    Raises:
        BadInput: If it does not have one input for `(n, *shape)` and one output for `(n, classes)`; names both.
    """
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise BadInput(
            f"{path} must have one input and one output. Received: {len(graph.inputs)} and {len(graph.outputs)}."
        )
    input_shape, output_shape = (graph.tensors[index].shape[1:] for index in (*graph.inputs, *graph.outputs))
    if find_layout(shape, input_shape, layout) is None or not has_outputs(output_shape, classes, input_shape):
        raise make_mismatch_error(path, input_shape, output_shape, shape, classes)


def try_on_example(path: Path, data: Data) -> None:
    """Run a `.tflite` on the first validation example in a sandbox process.

    Args:
        path: Path of the file.
        data: The data set.

    Raises:
        BadInput: If a weight is NaN, infinite or far too large, LiteRT cannot run it, it crashes the process, or its
            output is NaN, infinite or of another shape.
    """
    from lightexp.backend.litert import compute_logits

    check_weights(path)
    try:
        compute_logits(path, data.val.x[:1], data, threads=1, foreign=True)
    except RunFailed as error:
        raise BadInput(str(error)) from None


def check_weights(path: Path) -> None:
    """Raise BadInput if a weight of a `.tflite` is NaN, infinite or far too large."""
    from lightexp.backend.finite_weights import find_broken_constant
    from lightexp.backend.flatbuffer import read_graph

    if broken := find_broken_constant(read_graph(path)):
        raise BadInput(f"{path} holds NaN, infinite or far too large weights in '{broken}'. Train or get it again.")
