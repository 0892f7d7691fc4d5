"""What a stage, an objective, a model, a data set and a measurement are.

Each is a frozen dataclass of settings that a config file names by `_target_`. Adding one is one Python file and one
YAML file. Modules that define them import no TensorFlow; methods reach it through `lightexp.backend`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from lightexp.core.data import Data
from lightexp.core.metrics import Measurement as Measurement
from lightexp.core.metrics import MeasurementContext as MeasurementContext
from lightexp.core.metrics import Metric as Metric
from lightexp.core.metrics import Note as Note
from lightexp.core.sensitivity import SensitivityTable
from lightexp.core.tflite_graph import TFLiteGraph

Form = Literal["none", "keras", "tflite", "quantized", "encoded"]
"""What a stage starts from and makes; `quantized` and `encoded` are a .tflite that can only be measured."""
TFLITE, ENCODED, STATE_FILE = "model.tflite", "model.lxe", "state.npz"


class Progress(Protocol):
    """Where long work says how far it is."""

    def step(self, done: float, total: float, **figures: float) -> None:
        """Shows that `done` of `total` epochs are over, with the latest figures (loss, accuracy, sparsity)."""

    def say(self, words: str) -> None:
        """Shows what is being done now, where nothing can be counted."""


@dataclass(frozen=True)
class Artifact:
    """A stage's result: a folder of the store that holds at least `model.tflite`.

    Attributes:
        form: `keras` (with `architecture.json` and `weights.npz`) or `tflite`.
        folder: Where its files are. Never written to.
        facts: What the stage said of it, as JSON types.
        key: The store's key.
        foreign: Whether its flatbuffer is, or comes from, somebody else's, so that it runs in a process of its own.
    """

    form: str
    folder: Path
    facts: dict[str, Any]
    key: str
    foreign: bool = False

    @property
    def tflite(self) -> Path:
        """The flatbuffer that would ship if the pipeline ended here."""
        return self.folder / TFLITE

    @property
    def encoded(self) -> Path | None:
        """The same, entropy coded, if it has been."""
        return path if (path := self.folder / ENCODED).is_file() else None


@dataclass(frozen=True)
class Layer:
    """A layer as plans and stages talk of it.

    Attributes:
        name: The layer's name in the Keras model.
        kind: The layer's class, such as `Conv2D`.
        kernel: Shape of its main weight, or None where it has none.
        parameters: Number of its weights.
        activation: Name of the function it applies to its result; empty where it knows none.
    """

    name: str
    kind: str
    kernel: tuple[int, ...] | None
    parameters: int
    activation: str = ""


class Model(ABC):
    """An architecture, sized to its data by itself."""

    version: ClassVar[int] = 1

    @abstractmethod
    def build(self, shape: tuple[int, ...], classes: int) -> Any:
        """Builds an untrained tf_keras model from inputs `(n, *shape)` to logits `(n, classes)`."""

    @abstractmethod
    def scaled(self, width: float) -> Model:
        """The same architecture with every hidden layer at `width` of its width."""

    @property
    def trainable(self) -> bool:
        """Whether it has Keras layers; a .tflite has none."""
        return True

    def select_view(self, data: Data) -> Data:
        """The data as a run with this model sees them: labels in the order of its outputs."""
        return data

    def check(self, shape: tuple[int, ...], classes: int) -> None:
        """Checks, without TensorFlow, that it can be built for this data.

        Raises:
            BadInput: If it cannot.
        """


class TrainingObjective(ABC):
    """What a training stage minimises.

    Attributes:
        adapts: Whether `feature_loss` gets the model's features brought to the teacher's number of channels by a
            linear map that is trained with the model.
        version: Bumped when its result changes.
    """

    adapts: ClassVar[bool] = False
    version: ClassVar[int] = 1

    @property
    def teachers(self) -> dict[str, Teacher]:
        """The teachers it learns from by role; each one's logits over the train split reach `loss`."""
        return {}

    @property
    def matched(self) -> Mapping[str, str] | None:
        """Which layers of the model are to be like which of the teacher named `teacher`; None looks at none.

        Empty means the convolutions of the same name or, where there are none, the dense layers but for the last.
        """
        return None

    def feature_loss(self, features: Any, teachers: Any) -> Any:
        """Loss `(batch,)` of one matched layer, added to `loss`.

        Args:
            features: Tensor `(batch, ..., channels)` that the model's layer gives.
            teachers: Tensor that the teacher's layer gives; of the same shape, but for the channels without `adapts`.
        """
        raise NotImplementedError

    @abstractmethod
    def loss(self, logits: Any, labels: Any, teachers: Mapping[str, Any]) -> Any:
        """Loss of each example, traced as it stands: a condition on a tensor is a `tf.cond`.

        Args:
            logits: Tensor `(batch, classes)` of the model in training.
            labels: Tensor `(batch,)` int32.
            teachers: Tensor `(batch, classes)` of logits for each role in `teachers`.

        Returns:
            Tensor `(batch,)`.
        """


Teacher = str | list[str]
"""`control`, the path of a float .tflite, or the overrides that describe another run."""


@dataclass(frozen=True)
class Invariant:
    """Something true of an artifact that later stages may destroy.

    Attributes:
        kind: Such as `sparsity`.
        value: How much of it, in the kind's own unit; 0 where there is no more or less.
    """

    kind: str
    value: float = 0.0


@dataclass
class Context:
    """What a stage works with.

    Attributes:
        data: The data set.
        model: The architecture at this point of the pipeline.
        seed: Of everything random.
        threads: How many threads may compute.
        out: The folder to write the result to.
        progress: Where to say how far the work is.
        inputs: The artifacts asked for by `Stage.inputs`, by role.
        stop: The epoch after which training is cut short, its state left in `out` as `STATE`. Defaults to None: never.
        state: That state of the same training cut short earlier, to go on from. Defaults to None: from the start.
    """

    data: Data
    model: Model
    seed: int
    threads: int
    out: Path
    progress: Progress
    inputs: dict[str, Artifact] = field(default_factory=dict)
    stop: int | None = None
    state: Path | None = None


@dataclass(frozen=True)
class Range:
    """The values that a search tries of a stage's field unless it is told others.

    Attributes:
        values: In Hydra's sweep syntax: `interval(0.5, 0.98)`, `choice(int8, float16)`, `tag(log, interval(1, 9))`.
        strongest: The value that compresses most; None where none does.
    """

    values: str
    strongest: Any = None


class Stage(ABC):
    """A compression (or training) method with its settings.

    Attributes:
        search: What a search tries of its fields. Of a field that holds a value for each pattern of layers' names, the
            values of one layer.
        accepts: Forms it can start from; `none` is no model yet.
        produces: Form of its result.
        compresses: Whether what stands before it is the uncompressed control.
        needs_tensorflow: See `computes_with_tensorflow`.
        version: Bumped when the method's result changes.
    """

    search: ClassVar[Mapping[str, Range]] = {}
    accepts: ClassVar[tuple[Form, ...]] = ("keras",)
    produces: ClassVar[Form] = "keras"
    compresses: ClassVar[bool] = True
    needs_tensorflow: ClassVar[bool] = True
    version: ClassVar[int] = 1

    def output_form(self, form: Form) -> Form:
        """The form of its result, started from `form`."""
        return self.produces

    def establishes(self) -> tuple[Invariant, ...]:
        """What is true of the result."""
        return ()

    def preserves(self, invariant: Invariant) -> bool:
        """Whether an invariant of an earlier stage survives this one."""
        return False

    def resolve(self, standing: tuple[Invariant, ...]) -> Stage:
        """This stage with the settings that depend on `standing`, what earlier stages have established."""
        return self

    def inputs(self) -> dict[str, Input]:
        """Other artifacts it stands on, by role."""
        return {}

    def computes_with_tensorflow(self, form: Form) -> bool:
        """Whether `apply`, started from `form`, computes with TensorFlow, which takes seconds to import."""
        return self.needs_tensorflow

    @property
    def needs_parent(self) -> bool:
        """Whether the result depends on the weights that come before, not on their architecture alone."""
        return True

    def replaces(self, model: Model) -> Model:
        """The architecture after this stage, given the one before."""
        return model

    def check(self, examples: int) -> None:
        """Checks the settings against the number of training examples before anything is trained.

        Raises:
            BadInput: If the settings cannot work with this data.
        """

    def describe_layers(self, layers: Sequence[Layer], table: SensitivityTable | None = None) -> list[tuple[str, str]]:
        """What it will do to each layer, as (name, words), with the reason where one is passed over.

        Args:
            layers: The model's.
            table: That of sensitivity, where the stage takes from one that is there already.
        """
        return []

    @abstractmethod
    def apply(self, parent: Artifact | None, context: Context) -> dict[str, Any]:
        """Does the work, writing the result's files into `context.out`.

        Returns:
            Facts for the record, as JSON types: curves, a value an epoch, under `history`.
        """

    def verify(self, kind: str, facts: Mapping[str, Any], shipped: TFLiteGraph) -> str | None:
        """Checks one established invariant on the file that ships.

        Args:
            kind: The invariant's kind.
            facts: What `apply` returned.
            shipped: The file at the pipeline's end.

        Returns:
            What is broken, in words, or None.
        """
        return None


Input = Teacher | Stage | type[Stage]
"""A teacher; a stage made from data and, if need be, the one before; or the last earlier stage that is of a class."""


class Dataset(ABC):
    """A source of data."""

    version: ClassVar[int] = 1

    @abstractmethod
    def check(self) -> Path | None:
        """Checks, without reading it, that the data can be had.

        Returns:
            Where it is; None if it is nowhere yet and `load` will fetch or make it.

        Raises:
            BadInput: If it is not there and cannot be fetched; says how to get it.
        """

    @abstractmethod
    def load(self) -> Data:
        """Reads the data and splits it.

        Raises:
            BadInput: If what is there cannot be used.
        """
