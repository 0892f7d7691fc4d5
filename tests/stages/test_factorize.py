"""Tests of low-rank factorisation: ranks, budgets, and the factorised model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightexp.core import lowrank
from lightexp.core.config import construct
from lightexp.core.data import Data, Split
from lightexp.core.errors import BadInput
from lightexp.core.protocols import Artifact, Context, Invariant
from lightexp.core.sensitivity import LayerSensitivity, SensitivityTable, allocate
from lightexp.models.mobilenet_v1 import MobileNetV1
from lightexp.models.small_cnn import SmallCnn
from lightexp.objectives.cross_entropy import CrossEntropy
from lightexp.runner.progress import SilentReporter
from lightexp.stages.factorize import Factorize
from tests.tiny_runs import TinyRuns

pytestmark = pytest.mark.usefixtures("tensorflow")
SHAPE = (8, 8, 1)
AT = "pipeline.stages.factorize"


def make_stage(**values: Any) -> Factorize:
    return construct(Factorize, {"objective": CrossEntropy(), "epochs": 1, **values}, "s")


def build_model(kind: Any = None) -> Any:
    from lightexp.backend import session

    session.reset_graph(0)
    return (kind or SmallCnn()).build(SHAPE, 4)


def preview_descriptions(kind: Any = None, **values: Any) -> dict[str, str]:
    return dict(make_stage(**values).preview(build_model(kind))[1])


def test_preview_gives_ranks_or_reason() -> None:
    no_kernel = "left alone, it has no kernel"
    assert preview_descriptions(ratio=0.5) == {
        "conv1": "Conv2D (3, 3, 1, 16): rank 5 of 9",
        "norm1": f"BatchNormalization: {no_kernel}",
        "conv2": "Conv2D (3, 3, 16, 32): rank 8 of 16 inputs, 16 of 32 outputs",
        "norm2": f"BatchNormalization: {no_kernel}",
        "logits": "Dense (128, 4): rank 2 of 4",
    }
    descriptions = preview_descriptions(ratio=0.9, layers={"conv2": 0.01}, exclude=["conv1"])
    assert descriptions["conv1"] == "Conv2D: left alone, excluded"
    assert descriptions["conv2"] == "Conv2D (3, 3, 16, 32): rank 1 of 16 inputs, 1 of 32 outputs"
    assert descriptions["logits"] == "Dense (128, 4): left alone, its factors would not be smaller (rank 4 of 4)"
    assert preview_descriptions(energy=0.8, layers={"conv*": 0.5})["conv1"] == "Conv2D (3, 3, 1, 16): rank 5 of 9"
    assert preview_descriptions(energy=0.8)["conv1"].endswith(
        "the lowest rank that keeps 0.8 of its energy, if its factors are smaller then"
    )
    assert "logits_core" in [
        layer.name for layer in make_stage(energy=0.99).preview(build_model())[0].layers
    ]  # it may be factorised
    descriptions = preview_descriptions(MobileNetV1(0.1))
    assert descriptions["block1_depth"] == "DepthwiseConv2D: left alone, depthwise kernels are not factorised"
    assert "block1_point" in descriptions


def test_sensitivity_table_allocates_ratio() -> None:
    drops = {"conv1": 0.5, "conv2": 0.1, "logits": 0.05}
    sizes = {"conv1": 9 * 16, "conv2": 9 * 16 * 32, "logits": 128 * 4}
    rows = {
        name: LayerSensitivity([name], sizes[name], {"rank": {0.5: 1 - drop, 0.25: 1 - 2 * drop}})
        for name, drop in drops.items()
    }
    table = SensitivityTable(1.0, 0.0, 100, rows)
    stage = make_stage(allocation="sensitivity", ratio=0.4, exclude=["logits"])
    removed = allocate({name: table.compute_costs([name], "rank") for name in ("conv1", "conv2")}, sizes, 0.6)
    assert removed["conv1"] < 0.5 < removed["conv2"]
    descriptions = dict(stage.preview(build_model(), table)[1])
    inputs, outputs = lowrank.ranks_for_ratio((3, 3, 16, 32), 1 - removed["conv2"])
    assert descriptions["conv2"] == f"Conv2D (3, 3, 16, 32): rank {inputs} of 16 inputs, {outputs} of 32 outputs"
    assert descriptions["conv1"].endswith(
        f"(rank {lowrank.ranks_for_ratio((3, 3, 1, 16), 1 - removed['conv1']).outputs} of 9)"
    )
    undetermined = preview_descriptions(allocation="sensitivity", layers={"conv1": 0.25})
    assert undetermined["conv1"] == "Conv2D (3, 3, 1, 16): rank 2 of 9"
    assert undetermined["conv2"].endswith("a rank by the table of sensitivity, if its factors are smaller then")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ratio": 0.0}, "s.ratio: Input should be greater than 0"),
        ({"layers": {"conv1": 0.0}}, "greater than 0"),
        ({"ratio": 1.5}, "s.ratio: Input should be less than or equal to 1"),
        ({"energy": 0.9, "budget": "macs"}, "s: energy and budget exclude each other. Received: 0.9 and macs"),
        (
            {"energy": 0.9, "allocation": "sensitivity"},
            "s: energy sets the rank of each layer, so that there is nothing",
        ),
        ({"ratio": 1.0}, "ratio=1: conv1: its factors would not be smaller (rank 9 of 9); conv2: "),
        ({"budget": "params", "share": 1.0}, "budget=params, share=1: conv1: its factors would not be smaller (rank"),
        ({"budget": "macs", "share": 0.01}, "budget=macs, share=0.01: even rank 1 of every layer leaves 0.0"),
        ({"exclude": ["*"]}, "the model has no layer that can be factorised. Leave the stage out, or exclude less."),
        ({"exclude": ["cnov1"]}, "no layer's name matches 'cnov1'. The model's layers: conv1, norm1"),
        ({"layers": {"norm*": 0.5}}, "layers: 'norm*' matches no layer that is factorised. These are: conv1, conv2"),
        ({"layers": {"conv*": 0.5, "conv1": 0.2}}, "layers: conv1 is given several ratios"),
    ],
)
def test_impossible_settings_are_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput) as error:
        preview_descriptions(**values)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def apply(model: Any, folder: Path, **values: Any) -> dict[str, Any]:
    from lightexp.backend import keras_files

    rng = np.random.default_rng(0)
    split = Split(rng.integers(0, 256, (20, *SHAPE), np.uint8), rng.integers(0, 4, 20).astype(np.int32))
    for name in ("before", "after"):
        (folder / name).mkdir()
    keras_files.save_model(model, folder / "before")
    data, parent = Data("d", split, split, split, 4, 1 / 255), Artifact("keras", folder / "before", {}, "k")
    with SilentReporter().stage("w", 1, 1) as progress:
        return make_stage(**values).apply(parent, Context(data, SmallCnn(), 0, 1, folder / "after", progress))


def test_energy_determines_ranks_by_weights(tmp_path: Path) -> None:
    """A trained model without low ranks is refused, although its untrained architecture was accepted."""
    model = build_model()
    kernel = model.get_layer("logits").kernel
    kernel.assign(np.outer(np.arange(128), [1, -2, 3, 4]) / 100 + 1e-4 * kernel.numpy())
    facts = apply(model, tmp_path, energy=0.99)
    assert facts["ranks"] == {"logits": (128, 1)}
    assert 0.99 < facts["energy"]["logits"] < 1
    assert facts["left"]["conv2"].startswith("its factors would not be smaller (rank ")
    assert facts["left"]["norm1"] == "it has no kernel"
    (tmp_path / "second").mkdir()
    with pytest.raises(BadInput, match=r"energy=1: conv1: its factors would not be smaller .*Ask for less"):
        apply(build_model(), tmp_path / "second", energy=1.0)


def test_preserves_nothing() -> None:
    assert not any(
        make_stage().preserves(Invariant(kind)) for kind in ("sparsity", "n_m", "blocks", "codebook", "dtype")
    )


@pytest.mark.parametrize(("budget", "metric"), [("macs", "compute/macs"), ("params", "model/params")])
def test_file_meets_and_uses_budget(tiny_runs: TinyRuns, budget: str, metric: str) -> None:
    record = tiny_runs.run("pipeline=factorize", f"{AT}.budget={budget}", f"{AT}.share=0.6")
    start, end = (stage.metric(metric) or 0 for stage in record.stages)
    assert 0.45 * start < end <= 0.6 * start


def test_later_stages_use_factors(tiny_runs: TinyRuns) -> None:
    """In the plan, in the file, and when trained from scratch; channels of factors can be removed."""
    from lightexp.runner.preview import preview_plan

    overrides = [
        "pipeline=factorize",
        "+stage@pipeline.stages.narrow=prune_channels",
        "+stage@pipeline.stages.prune=prune",
        "pipeline.stages.prune.from_scratch=true",
        "pipeline.stages.narrow.round_to=1",
        "pipeline.order=[train,factorize,narrow,prune]",
    ]
    plan, source = tiny_runs.plan(*overrides)
    descriptions = preview_plan(plan, tiny_runs.compose_settings(*overrides), source)
    assert [name for name, _ in descriptions[2]] == [
        "conv1_core",
        "conv1",
        "norm1",
        "conv2_reduce",
        "conv2_core",
        "conv2",
        "norm2",
        "logits_core",
        "logits",
    ]
    record = tiny_runs.run(*overrides)
    assert record.stages[1].facts["ranks"]["conv2"] == [3, 6]
    assert record.stages[2].facts["channels"]["conv2_core"] == [6, 3]
    assert record.stages[3].facts["sizes"]["conv2_core"] == 9 * 2 * 3
    by_energy = ["pipeline=factorize", f"{AT}.energy=0.9", "+stage@pipeline.stages.prune=prune"]
    by_energy += ["pipeline.order=[train,factorize,prune]", "+pipeline.stages.prune.layers={conv2_core: 0.5}"]
    plan, source = tiny_runs.plan(*by_energy)
    descriptions = dict(preview_plan(plan, tiny_runs.compose_settings(*by_energy), source)[2])
    assert descriptions["at most"] == "what 'factorize' leaves is known once it has run"
    assert descriptions["conv2_core"].endswith("sparsity 0.5")
    with pytest.raises(BadInput, match=r"stages\.prune: it starts from new weights, but what 'factorize' leaves"):
        tiny_runs.plan(*by_energy, "pipeline.stages.prune.from_scratch=true")
    for earlier in ("prune", "cluster"):
        order = [f"+stage@pipeline.stages.{earlier}={earlier}", f"pipeline.order=[train,{earlier},factorize]"]
        with pytest.raises(BadInput, match=f"'factorize' after '{earlier}' would undo its"):
            tiny_runs.plan("pipeline=factorize", *order)


@pytest.mark.parametrize(
    ("overrides", "layers"),
    [
        (["pipeline=factorize"], ["conv1", "conv2", "logits"]),
        # The first of several added layers has the value of all.
        (
            ["pipeline=prune_channels", "model=resnet8", "model.width=0.5"],
            ["stem", "stack1_conv1", "stack2_conv1", "stack2_conv2", "stack3_conv1", "stack3_conv2"],
        ),
    ],
)
def test_search_per_layer_finds_layers_with_ratio(overrides: list[str], layers: list[str], tmp_path: Path) -> None:
    from hydra.core.global_hydra import GlobalHydra

    from lightexp.search import layer_names
    from lightexp.search.study_spec import StudySpec

    field = f"pipeline.stages.{overrides[0].partition('=')[2]}.layers"
    try:
        spec = StudySpec([f"paths.outputs={tmp_path}", *overrides, f"+search.per_layer={{{field}: '*'}}"], [])
        assert layer_names.find_layer_names_in_process(spec) == {field: layers}
    finally:
        GlobalHydra.instance().clear()
