"""Tests that every file in `conf/` must pass, new files included."""

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
from lightexp.core.errors import BadInput, RunFailed
from lightexp.core.fingerprint import canonicalize, compute_key
from lightexp.core.protocols import Dataset, Measurement, Model, Stage, Task, TrainingObjective
from lightexp.core.store import Store
from lightexp.core.training import Training
from lightexp.runner import plan
from lightexp.runner.compose import compose_config, compose_settings
from lightexp.runner.config_dir import find_config_dir
from lightexp.runner.order import check_order
from lightexp.runner.settings import Settings
from lightexp.runner.shipped_nodes import load_shipped_node
from lightexp.tracking.mirror import Tracking
from tests.tiny_runs import TinyRuns

GROUPS: dict[str, tuple[str, str, type[Any]]] = {
    "dataset": ("dataset={}", "dataset", Dataset),
    "model": ("model={}", "model", Model),
    "task": ("task={}", "task", Task),
    "objective": ("objective@pipeline.stages.train.objective={}", "pipeline.stages.train.objective", TrainingObjective),
    "stage": ("+stage@pipeline.stages.probe={}", "pipeline.stages.probe", Stage),
    "tracking": ("tracking={}", "tracking", Tracking),
    "measure": ("measure={}", "measure", Measurement),
}
"""By group: the override that selects a choice, the path of the choice in the config, and its base class."""
SHORTEST_PIPELINES = {"none": [], "keras": ["train"], "tflite": ["train", "quantize"]}
"""By form: the stages of a shortest pipeline whose result has the form."""


def list_choices(group: str) -> list[str]:
    """Return the names of a group's files, except those that are parts of others and begin with `_`."""
    return sorted(path.stem for path in (find_config_dir() / group).glob("*.yaml") if not path.stem.startswith("_"))


CHOICES = [(group, name) for group in GROUPS for name in list_choices(group)]


@cache
def compose_nodes(group: str, name: str) -> dict[str, Any]:
    """Return the nodes of a file by their path in the config: one, or one for each measurement of a set."""
    override, path, _ = GROUPS[group]
    node = OmegaConf.to_container(OmegaConf.select(compose_config([override.format(name)]), path), resolve=True)
    assert isinstance(node, dict)
    return {path: node} if "_target_" in node else {f"{path}.{key}": inner for key, inner in node.items()}


def list_nested(node: Mapping[str, Any], path: str) -> list[tuple[str, Mapping[str, Any]]]:
    """Return a node and all nodes inside it, each with its path."""
    pairs = [(path, node)]
    for key, value in node.items():
        if isinstance(value, Mapping) and "_target_" in value:
            pairs += list_nested(value, f"{path}.{key}")
    return pairs


def test_every_folder_is_tested() -> None:
    folders = {path.name for path in find_config_dir().iterdir() if path.is_dir()}
    # Groups with tests elsewhere; a new group needs such tests, or an entry in `GROUPS`.
    tested_elsewhere = {
        "deploy",
        "pipeline",
        "experiment",
        "search",
        "hydra",
    }
    assert folders == {*GROUPS, *tested_elsewhere}
    assert len(CHOICES) > 10


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_file_sets_every_field_to_its_default(group: str, name: str) -> None:
    for path, node in [pair for top, outer in compose_nodes(group, name).items() for pair in list_nested(outer, top)]:
        cls = locate(node["_target_"], path)
        settings = {field.name: field for field in fields(cls) if field.init}
        assert set(node) - {"_target_"} == set(settings), path
        for key, field in settings.items():
            default = field.default if field.default_factory is MISSING else field.default_factory()
            if default is not MISSING:
                is_node = isinstance(node[key], Mapping) and "_target_" in node[key]
                value = build(node[key], object, path) if is_node else node[key]
                assert (value, type(value)) == (default, type(default)), f"{path}.{key}"


@pytest.mark.parametrize("name", list_choices("deploy"))
def test_target_may_be_the_only_one(name: str) -> None:
    measure = compose_settings(["measure=default", f"deploy=[{name}]"]).measure
    boards, npus = measure["micro"].boards, measure["npu"].targets if "npu" in measure else {}  # type: ignore[attr-defined]
    assert {*boards, *npus} == {name}
    for board in boards.values():
        assert 0 < board["flash_taken"] < board["flash"]
        assert 0 < board["ram_taken"] < board["ram"]
    for npu in npus.values():
        assert npu.get("flash_taken", 0) < npu.get("flash", 1) and npu.get("sram_taken", 0) < npu.get("sram", 1)


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_choice_has_one_stable_key(group: str, name: str) -> None:
    for path, node in compose_nodes(group, name).items():
        first, second = (build(node, GROUPS[group][2], path) for _ in range(2))
        assert first == second
        assert compute_key(first) == compute_key(second)
        assert json.loads(json.dumps(canonicalize(first), allow_nan=False)) == canonicalize(first)


@pytest.mark.parametrize("group", GROUPS)
def test_no_two_choices_have_the_same_key(group: str) -> None:
    keys = []
    for name in list_choices(group):
        nodes = compose_nodes(group, name)
        keys.append(str(sorted(compute_key(build(node, GROUPS[group][2], path)) for path, node in nodes.items())))
    assert len(set(keys)) == len(keys)


@cache
def build_model(name: str) -> Model:
    """Return a model of `conf/model`; its file is not composed, which makes the collection of the tests faster."""
    node = OmegaConf.to_container(OmegaConf.load(find_config_dir() / "model" / f"{name}.yaml"))
    return build(node, Model, "model")  # type: ignore[type-abstract]


SHAPES = [((8, 8, 1), 10), ((28, 28, 1), 10), ((32, 32, 3), 5), ((49, 10, 1), 12), ((40, 1), 10)]


def accepts(name: str, shape: tuple[int, ...], classes: int) -> bool:
    try:
        build_model(name).check(shape, classes)
    except BadInput:
        return False
    return True


EXCLUDED_MODELS = ["from_file"]  # its size is that of a file: tests/runner/test_from_file.py
MODELS = [name for name in list_choices("model") if name not in EXCLUDED_MODELS]


@pytest.mark.parametrize("name", MODELS)
def test_every_model_takes_some_shape_or_says_what_it_needs(name: str) -> None:
    assert any(accepts(name, *sizes) for sizes in SHAPES)


@pytest.mark.parametrize(
    ("name", "shape", "classes"), [(name, *sizes) for name in MODELS for sizes in SHAPES if accepts(name, *sizes)]
)
@pytest.mark.usefixtures("tensorflow")
def test_model_adapts_to_the_data(name: str, shape: tuple[int, ...], classes: int) -> None:
    from lightexp.backend import session

    session.reset_graph(0)
    settings = build_model(name)
    built = settings.build(shape, classes)
    logits = built(np.random.default_rng(0).random((3, *shape), np.float32), training=False).numpy()
    assert logits.shape == (3, classes)
    assert np.isfinite(logits).all()
    assert logits.min() < 0 or logits.sum(axis=1) != pytest.approx(1)  # logits, not probabilities
    half = settings.scaled(0.5).build(shape, classes)
    assert half.count_params() < built.count_params()
    assert [layer.name for layer in half.layers] == [layer.name for layer in built.layers]


class TestStages:
    """Run every stage in `conf/stage` after the shortest pipeline that it can follow."""

    @staticmethod
    def list_overrides(name: str) -> list[str]:
        """Return the overrides that add the stage as `probe`."""
        stage = locate(compose_nodes("stage", name)["pipeline.stages.probe"]["_target_"], name)
        previous = next(SHORTEST_PIPELINES[form] for form in ("keras", "tflite", "none") if form in stage.accepts)
        added = [f"+stage@pipeline.stages.quantize={kind}" for kind in previous if kind != "train"]
        order = f"pipeline.order=[{','.join([*previous, 'probe'])}]"
        removed = [] if "train" in previous else ["~stage@pipeline.stages.train"]
        return ["pipeline=control", f"+stage@pipeline.stages.probe={name}", *added, *removed, order]

    @pytest.mark.parametrize("name", list_choices("stage"))
    def test_stage_keeps_its_invariants_and_is_stored(self, name: str, tiny_runs: TinyRuns) -> None:
        overrides = self.list_overrides(name)
        settings = tiny_runs.compose_settings(*overrides)
        stage = settings.stages["probe"]
        record = tiny_runs.run(*overrides)
        assert record.status == "done"
        shipped = tiny_runs.read_graph(record)
        facts = tiny_runs.load_facts(record.stages[-1].key)
        for invariant in stage.establishes():
            assert stage.verify(invariant.kind, facts, shipped) is None
        again = tiny_runs.run(*overrides)
        assert all(s.from_store for s in again.stages)
        assert [s.key for s in again.stages] == [s.key for s in record.stages]
        assert tiny_runs.get_file(again).read_bytes() == tiny_runs.get_file(record).read_bytes()
        timings = {"time/train_s"}
        assert {key: value for key, value in again.metrics.items() if key not in timings} == {
            key: value for key, value in record.metrics.items() if key not in timings
        }

    @pytest.mark.parametrize("name", list_choices("stage"))
    def test_verify_detects_a_missing_invariant(self, name: str, tiny_runs: TinyRuns) -> None:
        stage = tiny_runs.compose_settings(*self.list_overrides(name)).stages["probe"]
        for invariant in stage.establishes():
            facts = tiny_runs.load_facts(tiny_runs.run(*self.list_overrides(name)).stages[-1].key)
            control = tiny_runs.read_graph(tiny_runs.run("pipeline=control"))
            assert stage.verify(invariant.kind, facts, control), f"{name}: the control has its {invariant.kind}?"


# Composed without Hydra, which would take a second in each process that collects the tests.
TRAINING_STAGES = [name for name in list_choices("stage") if "epochs" in load_shipped_node("stage", name)]


@pytest.fixture(scope="module", params=["nan", "inf", "1e30", "1e12"])
def broken_runs(request: pytest.FixtureRequest, tensorflow: None, tmp_path_factory: pytest.TempPathFactory) -> TinyRuns:
    """Return runs whose store holds a control with weights that are not finite, or finite but far too large."""
    from lightexp.backend import keras_files

    runs, factor = TinyRuns(tmp_path_factory.mktemp("broken")), float(request.param)
    plan, data = runs.plan("pipeline=control")

    def make_control(folder: Path) -> dict[str, Any]:
        model = runs.compose_settings("pipeline=control").model.build(data.shape, data.classes)
        model.set_weights([(1 + np.abs(w)) * factor for w in model.get_weights()])
        keras_files.save_model(model, folder)
        return {"history": {}}

    Store(runs.outputs / "store").ensure(plan.control.key, "Train train", make_control)
    return runs


class TestBrokenWeights:
    """Run every stage on weights that are not finite, and train with a learning rate that makes them so."""

    @pytest.mark.parametrize("name", list_choices("stage"))
    def test_run_fails_with_the_name_of_a_stage(self, name: str, broken_runs: TinyRuns) -> None:
        with pytest.raises(RunFailed) as caught:  # exit code 1, in one line
            broken_runs.run(*TestStages.list_overrides(name))
        record = broken_runs.read_newest_record()
        assert (record.status, record.reason) == ("failed", str(caught.value))
        assert str(caught.value).startswith(("train: ", "probe: "))
        assert "Lower the learning rate" in str(caught.value) or "learning_rate=" in str(caught.value)

    @pytest.mark.parametrize("name", TRAINING_STAGES)
    def test_training_that_diverges_fails(self, name: str, tiny_runs: TinyRuns) -> None:
        rate = ["pipeline.stages.probe.optimizer=sgd", "pipeline.stages.probe.learning_rate=1e9"]
        with pytest.raises(RunFailed, match=r"^probe: .*\. Received learning_rate=1e\+09; try a tenth of it"):
            tiny_runs.run(*TestStages.list_overrides(name), *rate)


def test_all_pipelines_of_the_article_exist() -> None:
    methods = [("distill", "prune", "quantize")[i] for i in range(3)]
    subsets = [[m for i, m in enumerate(methods) if mask >> i & 1] for mask in range(1, 8)]
    assert {"control", *("_".join(s) for s in subsets)} <= set(list_choices("pipeline"))
    for subset in subsets:
        assert list(compose_settings([f"pipeline={'_'.join(subset)}"]).stages) == ["train", *subset]
    assert list(compose_settings(["pipeline=control"]).stages) == ["train"]


@pytest.fixture(scope="module")
def fashion() -> Data:
    """Return data of zeros with the sizes of Fashion-MNIST, for planning."""

    def make_split(count: int) -> Split:
        return Split(np.zeros((count, 28, 28, 1), np.uint8), (np.arange(count) % 10).astype(np.int32))

    return Data("fashion_mnist", make_split(50_000), make_split(10_000), make_split(10_000), 10, 1 / 255)


def compose_experiment(name: str) -> Settings:
    return compose_settings([f"experiment={name}"])


@pytest.mark.parametrize("name", list_choices("experiment"))
def test_experiment_can_be_planned(name: str, fashion: Data) -> None:
    settings = compose_experiment(name)
    check_order(settings)
    made_plan = plan.make_plan(settings, fashion, compose_settings)
    assert [node.name for node in made_plan.nodes] == list(settings.stages)
    assert len({node.key for node in made_plan.nodes}) == len(made_plan.nodes)


class TestArticle:
    """Check the settings of the founding article."""

    @pytest.mark.parametrize("name", ["article_prune", "article_quantize", "article_distill"])
    def test_common_settings(self, name: str) -> None:
        settings = compose_experiment(name)
        assert type(settings.dataset).__name__ == "FashionMnist"
        assert canonicalize(settings.model) == canonicalize(build_model("article_mlp"))
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
        stage: Any = compose_experiment("article_prune").stages["prune"]
        assert (stage.initial_sparsity, stage.sparsity, stage.schedule) == (0.5, 0.9, "polynomial")
        assert (stage.begin_step, stage.end_step, stage.frequency) == (0, 1000, 100)
        assert (stage.criterion, stage.allocation, stage.layers, stage.exclude) == ("magnitude", "uniform", {}, [])
        assert type(stage.objective).__name__ == "CrossEntropy"
        assert stage.from_scratch
        stage.check(len(fashion.train))

    def test_quantize(self) -> None:
        stage: Any = compose_experiment("article_quantize").stages["quantize"]
        assert (stage.scheme, stage.io) == ("default", "float")

    def test_distill(self, fashion: Data) -> None:
        settings = compose_experiment("article_distill")
        stage: Any = settings.stages["distill"]
        assert stage.objective.teacher == "control"
        assert (stage.objective.temperature, stage.objective.alpha) == (1.0, 1.0)
        student: Any = stage.replaces(settings.model)
        assert student.scale_units(128) == 43  # a third
        made_plan = plan.make_plan(settings, fashion, compose_settings)
        assert made_plan.nodes[-1].inputs["teacher"] is made_plan.control


def test_every_file_starts_with_a_comment() -> None:
    for group in ("dataset", "model", "stage", "pipeline"):
        for path in Path(find_config_dir()).rglob(f"{group}/*.yaml"):
            assert path.read_text().startswith("# "), path
