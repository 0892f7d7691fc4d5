"""A pipeline's plan: its stages, checked as a whole, and the key of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import permutations
from pathlib import Path

from lightexp.core.data import Data
from lightexp.core.errors import BadInput, suggest_nearest
from lightexp.core.fingerprint import compute_key, hash_file, read_library_versions
from lightexp.core.protocols import Form, Input, Invariant, Model, Stage
from lightexp.core.training import TRAINING_VERSION, Training
from lightexp.models.file_stages import ModelFile
from lightexp.models.from_file import check_shapes, try_on_example
from lightexp.runner.settings import Settings
from lightexp.stages.architecture_stage import ArchitectureStage, undetermined_stage
from lightexp.stages.train import TrainingStage

Compose = Callable[[list[str]], Settings]
_DEPTH = 3  # of teachers that have teachers
# Not a teacher's to set.
_THE_RUNS = ("dataset", "seed", "runtime", "paths", "measure", "deploy", "tracking", "plugins")


@dataclass(frozen=True)
class Node:
    """One stage of a plan.

    Attributes:
        name: Its name in the pipeline.
        stage: Its settings.
        model: The architecture after it; None where it makes none.
        inputs: What it stands on, by role; `parent` is the stage before, where its weights matter.
        key: The store's key of its result.
        stop: The epoch after which its training is cut short. Defaults to None: never.
        earlier: The keys of the same training cut short before that, from which it can go on.
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
        return self.stage.output_form(self._given)

    @property
    def needs_tensorflow(self) -> bool:
        """Whether making it takes TensorFlow."""
        return self.stage.computes_with_tensorflow(self._given)

    @property
    def _given(self) -> Form:
        parent = self.inputs.get("parent")
        return parent.form if parent else "none"


@dataclass(frozen=True)
class Plan:
    """A pipeline ready to run.

    Attributes:
        nodes: In order.
        control: The node whose model is uncompressed.
    """

    nodes: tuple[Node, ...]
    control: Node

    @property
    def keys(self) -> list[str]:
        """The keys of all nodes and of what these stand on."""
        behind, seen = [*self.nodes], set[str]()
        while behind:
            node = behind.pop()
            seen.add(node.key)
            behind += [needed for needed in node.inputs.values() if needed.key not in seen]
        return sorted(seen)


def check_order(settings: Settings) -> None:
    """Checks that the stages' forms chain and that none undoes an earlier one.

    Raises:
        BadInput: If not; says how to write it.
    """
    form: Form = "none"
    names = list(settings.stages)
    standing: list[tuple[str, Invariant]] = []
    for place, (name, stage) in enumerate(settings.stages.items()):
        if form not in stage.accepts:
            if form == "none":
                raise BadInput(
                    f"pipeline.order: '{name}' cannot stand first, it needs a trained model. "
                    f"Received: {names}. Put a train stage before it."
                )
            if isinstance(settings.stages[names[place - 1]], ModelFile):
                if form == "quantized":
                    raise BadInput(
                        f"pipeline.order: '{name}' cannot follow a .tflite that is quantised already. "
                        "It can be measured as it is: pipeline=control."
                    )
                raise BadInput(
                    f"pipeline.order: '{name}' needs Keras layers, which a .tflite does not have; it starts from "
                    f"{' or '.join(stage.accepts)}. After a .tflite come post-training stages only: pipeline=quantize."
                )
            wrong = next(n for n in names if settings.stages[n].produces not in stage.accepts)
            raise BadInput(
                f"pipeline.order: '{name}' cannot follow '{names[place - 1]}', whose result is of the form {form}; "
                f"it starts from {' or '.join(stage.accepts)}. {_earlier(settings, name, wrong)}."
            )
        for owner, invariant in standing:
            if not stage.preserves(invariant) and invariant.kind not in settings.waive:
                raise BadInput(
                    f"pipeline.order: '{name}' after '{owner}' would undo its {invariant.kind}. "
                    f"{_earlier(settings, name, owner)}, or to show the damage, 'pipeline.waive=[{invariant.kind}]'."
                )
        standing += [(name, invariant) for invariant in stage.establishes()]
        form = stage.output_form(form)
        _check_earlier_stages(settings, name)
    kinds = {invariant.kind for _, invariant in standing}
    for kind in settings.waive:
        if kind not in kinds:
            raise BadInput(f"pipeline.waive names '{kind}', which no stage establishes: {suggest_nearest(kind, kinds)}")


def _check_earlier_stages(settings: Settings, name: str) -> None:
    """Refuses a stage that stands on an earlier one of some class, if none comes before it."""
    names = list(settings.stages)
    place = names.index(name)
    for wanted in settings.stages[name].inputs().values():
        if isinstance(wanted, type) and not any(isinstance(settings.stages[n], wanted) for n in names[:place]):
            method = wanted.__module__.rpartition(".")[2]
            there = next((n for n in names if isinstance(settings.stages[n], wanted)), method)
            order = [n for n in settings.plain["pipeline"]["order"] if n != there]
            order.insert(order.index(name), there)
            added = "" if there in names else f"+stage@pipeline.stages.{method}={method} "
            raise BadInput(
                f"pipeline.order: '{name}' takes what it does to each layer from a {method} stage, and none comes "
                f"before it. Received: {names}. Put one there: {added}'pipeline.order=[{','.join(order)}]'."
            )


def _earlier(settings: Settings, name: str, before: str) -> str:
    """How to put `name` before another stage: in the accepted order that is nearest to that, if there is one."""
    wanted: list[str] = [n for n in settings.stages if n != name]
    wanted.insert(wanted.index(before), name)
    orders = sorted(permutations(wanted), key=lambda order: sum(a != b for a, b in zip(order, wanted, strict=True)))
    for order in orders:
        if _accepted([settings.stages[n] for n in order], settings.waive):
            own = [n for n in order if not isinstance(settings.stages[n], ModelFile)]
            return f"Put it earlier: 'pipeline.order=[{','.join(own)}]'"
    return f"Leave out '{before}' or '{name}'"


def _accepted(stages: Sequence[Stage], waive: Sequence[str]) -> bool:
    """Whether the forms of stages chain and none undoes an earlier one."""
    form: Form = "none"
    standing: list[Invariant] = []
    for stage in stages:
        kept = all(stage.preserves(invariant) or invariant.kind in waive for invariant in standing)
        if form not in stage.accepts or not kept:
            return False
        standing += stage.establishes()
        form = stage.output_form(form)
    return True


def make_plan(settings: Settings, data: Data, compose: Compose, depth: int = 0) -> Plan:
    """Plans a pipeline on loaded data.

    Args:
        settings: Typed settings; their order is checked here too.
        data: The data set, also for teachers that are other pipelines.
        compose: From the overrides that describe another run to its settings.
        depth: How many teachers deep this is.

    Raises:
        BadInput: If a stage cannot work with this data, or a teacher does not exist.
    """
    check_order(settings)
    nodes: list[Node] = []
    control: Node | None = None
    model = settings.model
    standing: tuple[Invariant, ...] = ()
    for name, given in settings.stages.items():
        stage = given.resolve(standing)
        standing += stage.establishes()
        with _at(f"pipeline.stages.{name}"):
            model, before = stage.replaces(model), model
            if model is not before or not nodes:
                model.check(data.shape, data.classes)
            if nodes and not stage.needs_parent and (by := undetermined_stage(model)):
                known = next(node.name for node in nodes if node.stage is by)
                raise BadInput(
                    f"it starts from new weights, but what '{known}' leaves of the model is known only once that has "
                    "run on trained ones. Give that one ratio for all layers, let this stage go on from its result, or "
                    "come first."
                )
            stage.check(len(data.train))
            if isinstance(stage, ModelFile):
                try_on_example(Path(stage.path), data)
        if stage.compresses and control is None and nodes:
            control = nodes[-1]
        inputs: dict[str, Node] = {}
        if nodes and stage.needs_parent:
            inputs["parent"] = nodes[-1]
        for role, wanted in stage.inputs().items():
            inputs[role] = _input(name, role, wanted, control, nodes, settings, data, compose, depth)
        if (inside := _looks_inside(stage)) and inputs["teacher"].form != "keras":
            raise BadInput(
                f"pipeline.stages.{name}.objective: {inside} looks at its teacher's layers, which a .tflite does not "
                "have. Name control, or the overrides of a run that ends in Keras form, or take objective=distill."
            )
        found = partial(_key, stage, model, settings.seed, data, inputs)
        *earlier, stop = _stops(settings, name, stage, len(data.train))
        nodes.append(Node(name, stage, model, inputs, found(stop), stop, tuple(map(found, earlier))))
    return Plan(tuple(nodes), control or nodes[-1])


def _stops(settings: Settings, name: str, stage: Stage, examples: int) -> list[int | None]:
    """The epochs after which a stage's training is cut short on each rung up to its own; None: it is not."""
    rung = settings.rung
    if rung is None or name != settings.fidelity or not isinstance(stage, TrainingStage):
        return [None]
    return rung.stops(stage.schedule_epochs(examples), stage.epochs)


def _looks_inside(stage: Stage) -> str | None:
    """The name of a stage's objective if that compares hidden layers."""
    if isinstance(stage, Training) and stage.objective.matched is not None:
        return type(stage.objective).__name__.lower()
    return None


@contextmanager
def _at(place: str) -> Iterator[None]:
    """Puts a place before what is wrong there."""
    try:
        yield
    except BadInput as error:
        raise BadInput(f"{place}: {error}") from None


def _input(
    name: str,
    role: str,
    wanted: Input,
    control: Node | None,
    before: list[Node],
    settings: Settings,
    data: Data,
    compose: Compose,
    depth: int,
) -> Node:
    where = f"pipeline.stages.{name}.objective.{'teacher' if role == 'teacher' else f'others.{role}'}"
    if isinstance(wanted, type):
        found = next(node for node in reversed(before) if isinstance(node.stage, wanted))
        for node in before[before.index(found) + 1 :]:
            if node.model is not found.model or isinstance(node.stage, ArchitectureStage):
                raise BadInput(
                    f"pipeline.order: '{name}' takes what it does to each layer from '{found.name}', but '{node.name}' "
                    f"makes them other layers. Put '{found.name}' behind '{node.name}'."
                )
        return found
    if isinstance(wanted, Stage):
        parent = {"parent": before[-1]} if wanted.needs_parent and before else {}
        return Node(f"{name}.{role}", wanted, None, parent, _key(wanted, None, 0, data, parent))
    if isinstance(wanted, list):
        if depth >= _DEPTH:
            raise BadInput(f"{where}: teachers of teachers go more than {_DEPTH} deep. Name a control or a file.")
        with _at(f"{where}={wanted}"):
            for override in wanted:
                group = override.lstrip("+~").partition("=")[0].partition("@")[0].partition(".")[0]
                if group in _THE_RUNS:
                    raise BadInput(f"{override} has no effect on a teacher, which shares this run's. Leave it out.")
            other = replace(compose([*wanted, f"plugins={settings.plain['plugins']}"]), seed=settings.seed)
            return make_plan(other, data, compose, depth + 1).nodes[-1]
    if wanted == "control":
        if control is None:
            raise BadInput(
                f"{where}=control: no uncompressed model comes before '{name}'. Put a train stage before it, "
                "or name a float .tflite file, or the overrides of another run such as "
                f'\'{where}=["model=lenet5","pipeline=control"]\'.'
            )
        return control
    from lightexp.backend import flatbuffer

    path = Path(wanted).expanduser()
    if path.suffix != ".tflite" or not path.is_file():
        raise BadInput(
            f"{where} must be 'control', a float .tflite file that exists, or a list of overrides. Received: {wanted}."
        )
    check_shapes(path, flatbuffer.read_graph(path), data.shape, data.classes)
    try_on_example(path, data)
    stage = ModelFile(str(path.absolute()), hash_file(path))
    return Node(f"{name}.{role}", stage, None, {}, _key(stage, None, 0, data, {}))


def _key(
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
