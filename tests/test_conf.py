"""The contract of every file in `conf/`: a new one is tested by being there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from lightexp.core.config import build, locate
from lightexp.core.data import Data, Split
from lightexp.core.errors import BadInput
from lightexp.core.fingerprint import canonicalize, compute_key
from lightexp.core.protocols import Dataset, Measurement, Model, Stage, TrainingObjective
from lightexp.core.training import Training
from lightexp.runner import plan
from lightexp.runner.compose import compose_config, compose_settings
from lightexp.runner.config_dir import find_config_dir
from lightexp.runner.order import check_order
from lightexp.runner.settings import Settings
from lightexp.tracking.mirror import Tracking
from tests.tiny_runs import TinyRuns

# How a group's choice comes into the config, and where it then stands.
PLACES: dict[str, tuple[str, str, type[Any]]] = {
    "dataset": ("dataset={}", "dataset", Dataset),
    "model": ("model={}", "model", Model),
    "objective": ("objective@pipeline.stages.train.objective={}", "pipeline.stages.train.objective", TrainingObjective),
    "stage": ("+stage@pipeline.stages.probe={}", "pipeline.stages.probe", Stage),
    "tracking": ("tracking={}", "tracking", Tracking),
    "measure": ("measure={}", "measure", Measurement),
}
# A shortest pipeline whose result has the form that a stage starts from.
BEFORE = {"none": [], "keras": ["train"], "tflite": ["train", "quantize"]}


def choices(group: str) -> list[str]:
    """The names of a group's files; one that begins with `_` is only ever part of another."""
    return sorted(path.stem for path in (find_config_dir() / group).glob("*.yaml") if not path.stem.startswith("_"))


EVERY = [(group, name) for group in PLACES for name in choices(group)]


@cache
def nodes(group: str, name: str) -> dict[str, Any]:
    """The nodes that a file describes by place: one, or one for each of a set of measurements."""
    override, place, _ = PLACES[group]
    node = OmegaConf.to_container(OmegaConf.select(compose_config([override.format(name)]), place), resolve=True)
    assert isinstance(node, dict)
    return {place: node} if "_target_" in node else {f"{place}.{k}": v for k, v in node.items()}


def nested(node: Mapping[str, Any], place: str) -> list[tuple[str, Mapping[str, Any]]]:
    """A node and all those inside it."""
    inner = [(f"{place}.{k}", v) for k, v in node.items() if isinstance(v, Mapping) and "_target_" in v]
    return [(place, node), *(found for k, v in inner for found in nested(v, k))]


def test_every_folder_is_under_a_contract() -> None:
    folders = {path.name for path in find_config_dir().iterdir() if path.is_dir()}
    own = {
        "deploy",
        "pipeline",
        "experiment",
        "search",
        "hydra",
    }  # tests of their own; a new group needs a place above, or such tests
    assert folders == {*PLACES, *own}
    assert len(EVERY) > 10


@pytest.mark.parametrize(("group", "name"), EVERY)
def test_the_keys_are_the_fields_with_their_defaults(group: str, name: str) -> None:
    for place, node in [pair for top, outer in nodes(group, name).items() for pair in nested(outer, top)]:
        cls = locate(node["_target_"], place)
        known = {f.name: f for f in fields(cls) if f.init}
        assert set(node) - {"_target_"} == set(known), place
        for word, field in known.items():
            default = field.default if field.default_factory is MISSING else field.default_factory()
            if default is not MISSING:
                inner = isinstance(node[word], Mapping) and "_target_" in node[word]
                value = build(node[word], object, place) if inner else node[word]
                assert (value, type(value)) == (default, type(default)), f"{place}.{word}"


@pytest.mark.parametrize("name", choices("deploy"))
def test_a_board_is_measured_by_itself(name: str) -> None:
    boards = compose_settings(["measure=default", f"deploy=[{name}]"]).measure["micro"].boards  # type: ignore[attr-defined]
    assert set(boards) == {name}
    assert 0 < boards[name]["flash_taken"] < boards[name]["flash"]
    assert 0 < boards[name]["ram_taken"] < boards[name]["ram"]


@pytest.mark.parametrize(("group", "name"), EVERY)
def test_the_object_has_one_stable_key(group: str, name: str) -> None:
    for place, node in nodes(group, name).items():
        first, second = (build(node, PLACES[group][2], place) for _ in range(2))
        assert first == second
        assert compute_key(first) == compute_key(second)
        assert json.loads(json.dumps(canonicalize(first), allow_nan=False)) == canonicalize(first)


@pytest.mark.parametrize("group", PLACES)
def test_no_two_choices_have_the_same_key(group: str) -> None:
    keys = [
        str(sorted(compute_key(build(n, PLACES[group][2], p)) for p, n in nodes(group, c).items()))
        for c in choices(group)
    ]
    assert len(set(keys)) == len(keys)


@cache
def model(name: str) -> Model:
    node = OmegaConf.to_container(
        OmegaConf.load(find_config_dir() / "model" / f"{name}.yaml")
    )  # as it stands: quicker to collect
    return build(node, Model, "model")  # type: ignore[type-abstract]


SHAPES = [((8, 8, 1), 10), ((28, 28, 1), 10), ((32, 32, 3), 5), ((49, 10, 1), 12), ((40, 1), 10)]


def takes(name: str, shape: tuple[int, ...], classes: int) -> bool:
    try:
        model(name).check(shape, classes)
    except BadInput:
        return False
    return True


OF_THEIR_OWN = ["from_file"]  # sized by a file: tests/runner/test_runner_from_file.py
MODELS = [name for name in choices("model") if name not in OF_THEIR_OWN]


@pytest.mark.parametrize("name", MODELS)
def test_every_model_takes_some_shape_or_says_what_it_needs(name: str) -> None:
    assert any(takes(name, *sizes) for sizes in SHAPES)


@pytest.mark.parametrize(
    ("name", "shape", "classes"), [(name, *sizes) for name in MODELS for sizes in SHAPES if takes(name, *sizes)]
)
@pytest.mark.usefixtures("tensorflow")
def test_every_model_sizes_itself_to_the_data(name: str, shape: tuple[int, ...], classes: int) -> None:
    from lightexp.backend import session

    session.reset_graph(0)
    settings = model(name)
    built = settings.build(shape, classes)
    logits = built(np.random.default_rng(0).random((3, *shape), np.float32), training=False).numpy()
    assert logits.shape == (3, classes)
    assert np.isfinite(logits).all()
    assert logits.min() < 0 or logits.sum(axis=1) != pytest.approx(1)  # logits, not probabilities
    half = settings.scaled(0.5).build(shape, classes)
    assert half.count_params() < built.count_params()
    assert [layer.name for layer in half.layers] == [layer.name for layer in built.layers]


class TestStages:
    """Every file in `conf/stage` at work, after the shortest pipeline that it can follow."""

    @staticmethod
    def words(name: str) -> list[str]:
        stage = locate(nodes("stage", name)["pipeline.stages.probe"]["_target_"], name)
        before = next(BEFORE[form] for form in ("keras", "tflite", "none") if form in stage.accepts)
        added = [f"+stage@pipeline.stages.quantize={b}" for b in before if b != "train"]
        order = f"pipeline.order=[{','.join([*before, 'probe'])}]"
        removed = [] if "train" in before else ["~stage@pipeline.stages.train"]
        return ["pipeline=control", f"+stage@pipeline.stages.probe={name}", *added, *removed, order]

    @pytest.mark.parametrize("name", choices("stage"))
    def test_it_works_holds_what_it_says_and_is_not_done_twice(self, name: str, tiny_runs: TinyRuns) -> None:
        words = self.words(name)
        settings = tiny_runs.compose_settings(*words)
        stage = settings.stages["probe"]
        record = tiny_runs.run(*words)
        assert record.status == "done"
        shipped = tiny_runs.read_graph(record)
        facts = tiny_runs.load_facts(record.stages[-1].key)
        for invariant in stage.establishes():
            assert stage.verify(invariant.kind, facts, shipped) is None
        again = tiny_runs.run(*words)
        assert all(s.from_store for s in again.stages)
        assert [s.key for s in again.stages] == [s.key for s in record.stages]
        assert tiny_runs.get_file(again).read_bytes() == tiny_runs.get_file(record).read_bytes()
        timeless = {"time/train_s"}
        assert {k: v for k, v in again.metrics.items() if k not in timeless} == {
            k: v for k, v in record.metrics.items() if k not in timeless
        }

    @pytest.mark.parametrize("name", choices("stage"))
    def test_its_check_sees_what_it_establishes_missing(self, name: str, tiny_runs: TinyRuns) -> None:
        stage = tiny_runs.compose_settings(*self.words(name)).stages["probe"]
        if not stage.establishes():
            return
        facts = tiny_runs.load_facts(tiny_runs.run(*self.words(name)).stages[-1].key)
        control = tiny_runs.read_graph(tiny_runs.run("pipeline=control"))
        for invariant in stage.establishes():
            assert stage.verify(invariant.kind, facts, control), f"{name}: the control has its {invariant.kind}?"


def test_all_eight_of_the_article_s_pipelines_are_there() -> None:
    methods = [("distill", "prune", "quantize")[i] for i in range(3)]
    subsets = [[m for i, m in enumerate(methods) if mask >> i & 1] for mask in range(1, 8)]
    assert {"control", *("_".join(s) for s in subsets)} <= set(choices("pipeline"))
    for subset in subsets:
        assert list(compose_settings([f"pipeline={'_'.join(subset)}"]).stages) == ["train", *subset]
    assert list(compose_settings(["pipeline=control"]).stages) == ["train"]


@pytest.fixture(scope="module")
def fashion() -> Data:
    """Blank data of Fashion-MNIST's sizes: enough to plan on."""

    def blank(count: int) -> Split:
        return Split(np.zeros((count, 28, 28, 1), np.uint8), (np.arange(count) % 10).astype(np.int32))

    return Data("fashion_mnist", blank(50_000), blank(10_000), blank(10_000), 10, 1 / 255)


def experiment(name: str) -> Settings:
    return compose_settings([f"experiment={name}"])


@pytest.mark.parametrize("name", choices("experiment"))
def test_every_experiment_plans(name: str, fashion: Data) -> None:
    settings = experiment(name)
    check_order(settings)
    planned = plan.make_plan(settings, fashion, compose_settings)
    assert [node.name for node in planned.nodes] == list(settings.stages)
    assert len({node.key for node in planned.nodes}) == len(planned.nodes)


class TestArticle:
    """The founding article's own values."""

    @pytest.mark.parametrize("name", ["article_prune", "article_quantize", "article_distill"])
    def test_what_all_three_share(self, name: str) -> None:
        settings = experiment(name)
        assert type(settings.dataset).__name__ == "FashionMnist"
        assert canonicalize(settings.model) == canonicalize(model("article_mlp"))
        assert list(settings.stages) == ["train", name.removeprefix("article_")]
        for stage in settings.stages.values():
            if isinstance(stage, Training):
                assert (stage.epochs, stage.batch_size, stage.optimizer) == (10, 32, "adam")
                assert (stage.learning_rate, stage.learning_rate_schedule, stage.early_stopping) == (
                    1e-3,
                    "constant",
                    0,
                )

    def test_prune(self, fashion: Data) -> None:
        stage: Any = experiment("article_prune").stages["prune"]
        assert (stage.initial_sparsity, stage.sparsity, stage.schedule) == (0.5, 0.9, "polynomial")
        assert (stage.begin_step, stage.end_step, stage.frequency) == (0, 1000, 100)
        assert (stage.criterion, stage.allocation, stage.layers, stage.exclude) == ("magnitude", "uniform", {}, [])
        assert type(stage.objective).__name__ == "CrossEntropy"
        assert stage.from_scratch
        stage.check(len(fashion.train))

    def test_quantize(self) -> None:
        stage: Any = experiment("article_quantize").stages["quantize"]
        assert (stage.scheme, stage.io) == ("default", "float")

    def test_distill(self, fashion: Data) -> None:
        settings = experiment("article_distill")
        stage: Any = settings.stages["distill"]
        assert stage.objective.teacher == "control"
        assert (stage.objective.temperature, stage.objective.alpha) == (1.0, 1.0)
        student: Any = stage.replaces(settings.model)
        assert student.scale_units(128) == 43  # a third
        planned = plan.make_plan(settings, fashion, compose_settings)
        assert planned.nodes[-1].inputs["teacher"] is planned.control


def test_every_file_says_what_it_is() -> None:
    for path in [
        p for p in Path(find_config_dir()).rglob("*.yaml") if p.parent.name in ("dataset", "model", "stage", "pipeline")
    ]:
        assert path.read_text().startswith("# "), path
