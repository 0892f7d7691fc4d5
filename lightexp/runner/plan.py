"""The plan of a run: its stages, checked against the data, with the artifacts they need and their store keys."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from lightexp.core.artifact import Form
from lightexp.core.data import Data
from lightexp.core.errors import BadInput
from lightexp.core.fingerprint import compute_key, read_library_versions
from lightexp.core.invariants import Invariant
from lightexp.core.protocols import Input, Model, Stage
from lightexp.core.task import make_default_task
from lightexp.core.training import TRAINING_VERSION, Training
from lightexp.models.file_stages import make_teacher_stage
from lightexp.runner.order import check_order
from lightexp.runner.settings import Settings
from lightexp.stages.architecture_stage import ArchitectureStage, undetermined_stage
from lightexp.stages.train import TrainingStage

Compose = Callable[[list[str]], Settings]
"""From the overrides that describe a run to its settings."""
_MAX_TEACHER_DEPTH = 3
_SHARED_WITH_TEACHERS = ("dataset", "seed", "runtime", "paths", "store", "measure", "deploy", "tracking", "plugins")


@dataclass(frozen=True)
class Node:
    """A stage of a plan.

    Attributes:
        name: Its name in the pipeline.
        stage: Its settings.
        model: The architecture after it; None where it does not make one.
        inputs: The nodes whose results it needs, by role; `parent` is the stage before, if its weights matter.
        key: Store key of its result.
        stop: The epoch after which its training stops early. Defaults to None: training runs to its end.
        earlier: Keys of the same training stopped at earlier epochs, from which it can continue.
    """

    name: str
    stage: Stage
    model: Model | None
    inputs: dict[str, Node]
    key: str
    stop: int | None = None
    earlier: tuple[str, ...] = ()

    @property
    def form(self) -> Form:
        """The form of its result."""
        return self.stage.output_form(self._parent_form)

    @property
    def needs_tensorflow(self) -> bool:
        """Whether running it uses TensorFlow."""
        return self.stage.computes_with_tensorflow(self._parent_form)

    @property
    def _parent_form(self) -> Form:
        parent = self.inputs.get("parent")
        return parent.form if parent else "none"


@dataclass(frozen=True)
class Plan:
    """A pipeline ready to run.

    Attributes:
        nodes: The stages in order.
        control: The node whose model is uncompressed.
    """

    nodes: tuple[Node, ...]
    control: Node

    @property
    def keys(self) -> list[str]:
        """The store keys of all nodes and of the nodes that they depend on, sorted."""
        return sorted(node.key for node in list_nodes(self.nodes))


def list_nodes(nodes: Iterable[Node]) -> list[Node]:
    """Return nodes and all that they depend on, each once, and after those that it needs."""
    listed: dict[str, Node] = {}
    for node in nodes:
        if node.key not in listed:
            listed |= {needed.key: needed for needed in list_nodes(node.inputs.values())}
            listed[node.key] = node
    return list(listed.values())


def make_plan(settings: Settings, data: Data, compose: Compose, depth: int = 0) -> Plan:
    """Plan a pipeline on loaded data.

    Args:
        settings: Settings of the run; the order of the stages is checked here too.
        data: The data set, shared by teachers that are other pipelines.
        compose: Composes the settings of a teacher that is another run.
        depth: Number of runs that this one is a teacher below. Defaults to 0.

    Raises:
        BadInput: If a stage cannot work with this data, or a teacher does not exist.
    """
    check_order(settings)
    builder = _PlanBuilder(settings, data, compose, depth)
    for name, stage in settings.stages.items():
        builder.add(name, stage)
    return builder.plan


class _PlanBuilder:
    """Builds a plan stage by stage."""

    def __init__(self, settings: Settings, data: Data, compose: Compose, depth: int) -> None:
        self._settings, self._data, self._compose, self._depth = settings, data, compose, depth
        self._model = settings.model
        self._nodes: list[Node] = []
        self._control: Node | None = None
        self._established: tuple[Invariant, ...] = ()

    @property
    def plan(self) -> Plan:
        return Plan(tuple(self._nodes), self._control or self._nodes[-1])

    def add(self, name: str, unresolved: Stage) -> None:
        """Add a stage after those before it."""
        stage = unresolved.resolve(self._established)
        self._established += stage.establishes()
        with _prefix_errors(f"pipeline.stages.{name}"):
            self._replace_model(stage)
            _check_objective(stage, self._data)
            stage.check(len(self._data.train))
            stage.check_data(self._data)
        if stage.compresses and self._control is None and self._nodes:
            self._control = self._nodes[-1]
        inputs: dict[str, Node] = {}
        if self._nodes and stage.needs_parent:
            inputs["parent"] = self._nodes[-1]
        for role, needed in stage.inputs().items():
            inputs[role] = self._resolve_input(name, role, needed)
        _check_teacher_layers(name, stage, inputs)
        key = partial(_compute_node_key, stage, self._model, self._settings.seed, self._data, inputs)
        *earlier, stop = self._list_stops(name, stage)
        self._nodes.append(Node(name, stage, self._model, inputs, key(stop), stop, tuple(map(key, earlier))))

    def _replace_model(self, stage: Stage) -> None:
        """Take over the architecture after a stage.

        Raises:
            BadInput: If it does not fit the data, or starts from new weights though it is not known yet.
        """
        before, self._model = self._model, stage.replaces(self._model)
        if self._model is not before or not self._nodes:
            self._model.check(self._data.shape, self._data.outputs)
        if self._nodes and not stage.needs_parent and (undetermined := undetermined_stage(self._model)):
            earlier = next(node.name for node in self._nodes if node.stage is undetermined)
            raise BadInput(
                f"it starts from new weights, but what '{earlier}' leaves of the model is known only once that has "
                "run on trained ones. Give that one ratio for all layers, let this stage go on from its result, or "
                "come first."
            )

    def _list_stops(self, name: str, stage: Stage) -> list[int | None]:
        """Return the epochs after which training stops on each rung up to the run's own; None is the training's end."""
        rung = self._settings.rung
        if rung is None or name != self._settings.fidelity or not isinstance(stage, TrainingStage):
            return [None]
        return rung.stops(stage.schedule_epochs(len(self._data.train)), stage.epochs)

    def _resolve_input(self, name: str, role: str, needed: Input) -> Node:
        """Return the node whose result a stage needs in a role.

        Raises:
            BadInput: If there is no such result.
        """
        place = f"pipeline.stages.{name}.objective.{'teacher' if role == 'teacher' else f'others.{role}'}"
        if isinstance(needed, type):
            return self._find_earlier(name, needed)
        if isinstance(needed, Stage):
            return self._make_side_node(f"{name}.{role}", needed)
        if isinstance(needed, list):
            return self._plan_teacher(place, needed)
        if needed == "control":
            return self._require_control(name, place)
        if self._data.target_scale:
            raise BadInput(
                f"{place}={needed}: a file gives targets in their own unit, and this model standardised ones. Set "
                "task.standardize=false, or name control or the overrides of another run."
            )
        stage = make_teacher_stage(needed, self._data, place)
        return self._make_side_node(f"{name}.{role}", stage)

    def _make_side_node(self, name: str, stage: Stage) -> Node:
        """Return the node of a stage outside the pipeline, whose result does not depend on the seed."""
        inputs = {"parent": self._nodes[-1]} if stage.needs_parent and self._nodes else {}
        return Node(name, stage, None, inputs, _compute_node_key(stage, None, 0, self._data, inputs))

    def _find_earlier(self, name: str, required: type[Stage]) -> Node:
        node = next(node for node in reversed(self._nodes) if isinstance(node.stage, required))
        for later in self._nodes[self._nodes.index(node) + 1 :]:
            if later.model is not node.model or isinstance(later.stage, ArchitectureStage):
                raise BadInput(
                    f"pipeline.order: '{name}' takes what it does to each layer from '{node.name}', but '{later.name}' "
                    f"makes them other layers. Put '{node.name}' behind '{later.name}'."
                )
        return node

    def _plan_teacher(self, place: str, overrides: list[str]) -> Node:
        """Return the last node of another run, which shares this run's data and seed."""
        if self._depth >= _MAX_TEACHER_DEPTH:
            raise BadInput(
                f"{place}: teachers of teachers go more than {_MAX_TEACHER_DEPTH} deep. Name a control or a file."
            )
        with _prefix_errors(f"{place}={overrides}"):
            for override in overrides:
                group = override.lstrip("+~").partition("=")[0].partition("@")[0].partition(".")[0]
                if group in _SHARED_WITH_TEACHERS:
                    raise BadInput(f"{override} has no effect on a teacher, which shares this run's. Leave it out.")
            settings = self._compose([*overrides, f"plugins={self._settings.plain['plugins']}"])
            shared = replace(settings, seed=self._settings.seed)
            return make_plan(shared, self._data, self._compose, self._depth + 1).nodes[-1]

    def _require_control(self, name: str, place: str) -> Node:
        if self._control is None:
            raise BadInput(
                f"{place}=control: no uncompressed model comes before '{name}'. Put a train stage before it, "
                "or name a float .tflite file, or the overrides of another run such as "
                f'\'{place}=["model=lenet5","pipeline=control"]\'.'
            )
        return self._control


def _compute_node_key(
    stage: Stage, model: Model | None, seed: int, data: Data, inputs: dict[str, Node], stop: int | None = None
) -> str:
    return compute_key(
        {
            **({"stop": stop} if stop else {}),
            "stage": stage,
            "model": model,
            "seed": seed,
            "data": data.key,
            "inputs": {role: node.key for role, node in inputs.items()},
            "training": TRAINING_VERSION if isinstance(stage, Training) else None,
            "libraries": read_library_versions(),
        }
    )


def _check_objective(stage: Stage, data: Data) -> None:
    """Check that a training's objective serves the task.

    Raises:
        BadInput: If it does not.
    """
    if isinstance(stage, Training) and not (
        stage.objective.follows_task or type(data.task) is type(make_default_task())
    ):
        raise BadInput(
            f"objective: {type(stage.objective).__name__} is made for task=classification. Received: "
            f"task={type(data.task).__name__.lower()}. Take objective=cross_entropy, which is the task's own loss."
        )


def _check_teacher_layers(name: str, stage: Stage, inputs: dict[str, Node]) -> None:
    """Check that an objective that compares hidden layers has a teacher with Keras layers.

    Raises:
        BadInput: If the teacher is a `.tflite`.
    """
    if not isinstance(stage, Training) or stage.objective.matched is None or inputs["teacher"].form == "keras":
        return
    raise BadInput(
        f"pipeline.stages.{name}.objective: {type(stage.objective).__name__.lower()} looks at its teacher's layers, "
        "which a .tflite does not have. Name control, or the overrides of a run that ends in Keras form, or take "
        "objective=distill."
    )


@contextmanager
def _prefix_errors(place: str) -> Iterator[None]:
    """Put the place in the config before the message of a BadInput."""
    try:
        yield
    except BadInput as error:
        raise BadInput(f"{place}: {error}") from None
