"""Abstract classes of the kinds of plugins: stages, objectives, tasks, models, data sets and measurements.

A subclass is a frozen settings class (see `lightexp.core.config.settings_dataclass`) that a config file names by
`_target_`; a new method is one Python file and one YAML file. The modules that define subclasses do not import
TensorFlow: their methods reach it through `lightexp.backend`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from lightexp.core.artifact import ENCODED as ENCODED
from lightexp.core.artifact import STATE_FILE as STATE_FILE
from lightexp.core.artifact import TFLITE as TFLITE
from lightexp.core.artifact import Artifact as Artifact
from lightexp.core.artifact import Form as Form
from lightexp.core.artifact import Layer as Layer
from lightexp.core.data import Data
from lightexp.core.invariants import Invariant as Invariant
from lightexp.core.invariants import InvariantFamily as InvariantFamily
from lightexp.core.invariants import InvariantKind as InvariantKind
from lightexp.core.metrics import Measurement as Measurement
from lightexp.core.metrics import MeasurementContext as MeasurementContext
from lightexp.core.metrics import Metric as Metric
from lightexp.core.metrics import Note as Note
from lightexp.core.objective import Teacher as Teacher
from lightexp.core.objective import TrainingObjective as TrainingObjective
from lightexp.core.progress import Progress as Progress
from lightexp.core.sensitivity import SensitivityTable
from lightexp.core.task import Task as Task
from lightexp.core.tflite_graph import TFLiteGraph


class Model(ABC):
    """An architecture that adapts its input and output to the data.

    Attributes:
        version: To be raised when the same settings build another architecture.
    """

    version: ClassVar[int] = 1

    @abstractmethod
    def build(self, shape: tuple[int, ...], classes: int) -> Any:
        """Build an untrained tf_keras model from inputs `(n, *shape)` to outputs `(n, classes)` without activation.

        Args:
            shape: Shape of an example.
            classes: Number of outputs: of classes, unless the task has another number (see `Task.count_outputs`).
        """

    @abstractmethod
    def scaled(self, width: float) -> Model:
        """Return the same architecture with every hidden layer at `width` times its width."""

    @property
    def trainable(self) -> bool:
        """Whether the model has Keras layers; a `.tflite` has none."""
        return True

    @property
    def input_rank(self) -> int | None:
        """Number of axes of the examples that it takes, 2 for series and 3 for images; None if it takes several."""
        return None

    @property
    def is_one_sigmoid(self) -> bool:
        """Whether a trained model's output is certainly one sigmoid, so that it tells two classes apart."""
        return False

    def adapt(self, stages: Sequence[Stage]) -> Model:
        """Return the model in the form that the pipeline's stages need; the model itself where it has one form."""
        return self

    def first_stage(self) -> Stage | None:
        """Return the stage that brings trained weights into the store, in place of the pipeline's first training.

        Returns:
            The stage; None for a model that has to be trained.

        Raises:
            BadInput: If the weights cannot be read.
        """
        return None

    def list_layers(self) -> list[Layer] | None:
        """Return the layers of a model that has no Keras layers; None for one that has to be built to know them."""
        return None

    def select_view(self, data: Data) -> Data:
        """Return the data as a run with this model uses them: labels in the order of the model's outputs."""
        return data

    def check(self, shape: tuple[int, ...], classes: int) -> None:
        """Check, without TensorFlow, that the model can be built for this data.

        Raises:
            BadInput: If it cannot.
        """


@dataclass
class Context:
    """What a stage works with.

    Attributes:
        data: The data set.
        model: The architecture at this point of the pipeline.
        seed: Seed of all random numbers.
        threads: Number of threads that may compute.
        out: The folder to write the result to.
        progress: Receiver of progress.
        inputs: The artifacts that `Stage.inputs` asks for, by role.
        stop: The epoch after which training stops early, its state saved in `out` as `STATE_FILE`. Defaults to None:
            training runs to its end.
        state: The state of the same training, stopped earlier, to continue from. Defaults to None: from the start.
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
    """Default search range of a stage's field.

    Attributes:
        values: In Hydra's sweep syntax: `interval(0.5, 0.98)`, `choice(int8, float16)`, `tag(log, interval(1, 9))`.
        strongest: The value that compresses most; None where none does.
    """

    values: str
    strongest: Any = None


class Stage(ABC):
    """A compression or training method with its settings.

    Attributes:
        search: Default search ranges of its fields. For a field with a value for each layer-name pattern, the range of
            one layer's value.
        accepts: Forms it can start from; `none` means that no model is needed.
        produces: Form of its result.
        compresses: Whether the model before the stage is the uncompressed control.
        implicit: Whether the model adds the stage (see `Model.first_stage`), so that `pipeline.order` does not name it.
        foreign: Whether the flatbuffer of its result was written by other software.
        needs_tensorflow: See `computes_with_tensorflow`.
        int8_settings: Settings under which it quantises a model to 8 bits throughout, the first trial of many searches;
            empty where it does not quantise.
        version: To be raised when the same settings give another result.
    """

    search: ClassVar[Mapping[str, Range]] = {}
    accepts: ClassVar[tuple[Form, ...]] = ("keras",)
    produces: ClassVar[Form] = "keras"
    compresses: ClassVar[bool] = True
    implicit: ClassVar[bool] = False
    foreign: ClassVar[bool] = False
    needs_tensorflow: ClassVar[bool] = True
    int8_settings: ClassVar[Mapping[str, Any]] = {}
    version: ClassVar[int] = 1

    def output_form(self, form: Form) -> Form:
        """Return the form of the result when the stage starts from `form`."""
        return self.produces

    def establishes(self) -> tuple[Invariant, ...]:
        """Return the invariants that hold for the result."""
        return ()

    def preserves(self, invariant: Invariant) -> bool:
        """Check whether an invariant of an earlier stage still holds after this one."""
        return False

    def resolve(self, standing: tuple[Invariant, ...]) -> Stage:
        """Return the stage with the settings that depend on the invariants of earlier stages filled in."""
        return self

    def inputs(self) -> dict[str, Input]:
        """Return the other artifacts that the stage needs, by role."""
        return {}

    def computes_with_tensorflow(self, form: Form) -> bool:
        """Check whether `apply`, started from `form`, uses TensorFlow, whose import takes seconds."""
        return self.needs_tensorflow

    @property
    def computes_in_integers(self) -> bool:
        """Whether the operators of the result compute with integers, as an NPU needs them."""
        return False

    @property
    def needs_parent(self) -> bool:
        """Whether the result depends on the weights of the stage before and not only on the architecture."""
        return True

    def replaces(self, model: Model) -> Model:
        """Return the architecture after this stage, from the one before."""
        return model

    def check(self, examples: int) -> None:
        """Check the settings against the number of training examples before anything is trained.

        Raises:
            BadInput: If the settings cannot work with this data.
        """

    def check_data(self, data: Data) -> None:
        """Check, before anything is trained, that the stage can work with this data set.

        Raises:
            BadInput: If it cannot.
        """

    def describe_layers(self, layers: Sequence[Layer], table: SensitivityTable | None = None) -> list[tuple[str, str]]:
        """Describe what the stage does to each layer, or why it leaves the layer unchanged.

        Args:
            layers: The model's layers.
            table: The sensitivity table, where the stage uses one and it is in the store. Defaults to None.

        Returns:
            Pairs of layer name and description.
        """
        return []

    def describe_model(
        self, model: Any, layers: Sequence[Layer], table: SensitivityTable | None = None
    ) -> list[tuple[str, str]]:
        """Describe what the stage does to each layer, where that depends on more than `describe_layers` is given.

        Args:
            model: The untrained Keras model; None where the model has no Keras layers.
            layers: As in `describe_layers`.
            table: As in `describe_layers`.

        Raises:
            BadInput: If the stage cannot work with the model.
        """
        return self.describe_layers(layers, table)

    @abstractmethod
    def apply(self, parent: Artifact | None, context: Context) -> dict[str, Any]:
        """Run the stage and write the files of its result to `context.out`.

        Args:
            parent: The result of the stage before; None if there is none or it is not needed.
            context: Data, model, seed and output folder.

        Returns:
            Facts for the record, as JSON types; curves, with one value for each epoch, under `history`.
        """

    def verify(self, kind: str, facts: Mapping[str, Any], shipped: TFLiteGraph) -> str | None:
        """Check on the file that ships that an invariant established by this stage holds.

        Args:
            kind: The invariant's kind.
            facts: What `apply` returned.
            shipped: The flatbuffer at the pipeline's end.

        Returns:
            What is broken; None if the invariant holds.
        """
        return None


Input = Teacher | Stage | type[Stage]
"""A teacher; a stage to be run on the data and, if it needs one, the parent; or the class of an earlier stage."""


class Dataset(ABC):
    """A source of data.

    Attributes:
        version: To be raised when the same settings give other data.
    """

    version: ClassVar[int] = 1

    def resolve(self, model: Model) -> Dataset:
        """Return the data set with the settings that depend on the model filled in."""
        return self

    def serve(self, task: Task) -> Dataset:
        """Return the data set that reads its targets as a task learns them: as class labels or as numbers."""
        return self

    @abstractmethod
    def check(self) -> Path | None:
        """Check, without reading it, that the data is available.

        Returns:
            Where it is; None if `load` will download or generate it.

        Raises:
            BadInput: If it is missing and cannot be fetched; the message says how to get it.
        """

    @abstractmethod
    def load(self) -> Data:
        """Read the data and split it.

        Raises:
            BadInput: If the data cannot be used.
        """
