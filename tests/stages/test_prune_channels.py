"""Tests of channel pruning: which channels are removed, budgets, and the smaller model."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightexp.core.config import construct
from lightexp.core.data import Data, Split
from lightexp.core.errors import BadInput
from lightexp.core.protocols import Invariant
from lightexp.core.sensitivity import LayerSensitivity, SensitivityTable
from lightexp.models.resnet8 import ResNet8
from lightexp.models.small_cnn import SmallCnn
from lightexp.objectives.cross_entropy import CrossEntropy
from lightexp.stages.prune_channels import PruneChannels
from tests.tiny_runs import TinyRuns

pytestmark = pytest.mark.usefixtures("tensorflow")
SHAPE = (8, 8, 1)


def make_stage(**values: Any) -> PruneChannels:
    return construct(PruneChannels, {"objective": CrossEntropy(), "epochs": 1, **values}, "s")


def build_model(kind: Any = None) -> Any:
    from lightexp.backend import session

    session.reset_graph(0)
    return (kind or SmallCnn()).build(SHAPE, 4)


def list_widths(model: Any) -> dict[str, int]:
    return {layer.name: int(layer.output.shape[-1]) for layer in model.layers if hasattr(layer, "kernel")}


def preview_widths(kind: Any = None, **values: Any) -> dict[str, int]:
    return list_widths(make_stage(**values).preview(build_model(kind))[0])


def test_each_layer_loses_its_ratio() -> None:
    assert preview_widths() == {"conv1": 8, "conv2": 16, "logits": 4}
    assert preview_widths(ratio=0.25, round_to=4) == {"conv1": 12, "conv2": 24, "logits": 4}
    assert preview_widths(layers={"conv1": 0.75}) == {"conv1": 4, "conv2": 16, "logits": 4}
    assert preview_widths(exclude=["conv2"]) == {"conv1": 8, "conv2": 32, "logits": 4}
    assert preview_widths(SmallCnn(1 / 16), ratio=0.5) == {
        "conv1": 1,
        "conv2": 1,
        "logits": 4,
    }  # half of one channel is one


def test_wide_layers_keep_a_multiple() -> None:
    assert preview_widths(ratio=0.4) == {"conv1": 8, "conv2": 16, "logits": 4}  # not 9.6 and 19.2
    assert preview_widths(ratio=0.4, round_to=1) == {"conv1": 10, "conv2": 19, "logits": 4}
    assert preview_widths(ratio=0.9) == {"conv1": 2, "conv2": 4, "logits": 4}  # 3.2 is below the unit of 8


def test_added_layers_share_channels() -> None:
    widths = preview_widths(ResNet8(), layers={"stem": 0.75})
    assert (widths["stem"], widths["stack1_conv2"], widths["stack1_conv1"]) == (4, 4, 8)
    assert preview_widths(ResNet8(), exclude=["stack1_conv2"])["stem"] == 16
    with pytest.raises(BadInput, match=r"^layers: .*stem.* must be one ratio, since these layers are added"):
        preview_widths(ResNet8(), layers={"stem": 0.5, "stack1_conv2": 0.25})


def test_global_allocation_removes_lowest_scores() -> None:
    from lightexp.backend.channels import ChannelGraph
    from lightexp.stages.channel_selection import ChannelTarget

    graph = ChannelGraph(build_model())
    scores = np.ones(graph.count)
    scores[graph.output_channels["conv1"][:10]] = 0.1
    stage = make_stage(allocation="global", ratio=0.25, round_to=1)
    removed = stage.select_removed(graph, scores, ChannelTarget.from_stage(stage, None, graph))
    assert removed >= set(graph.output_channels["conv1"][:10].tolist())
    assert len(removed) == 12  # of 48
    extreme = make_stage(allocation="global", ratio=0.99)
    assert len(extreme.select_removed(graph, scores, ChannelTarget.from_stage(extreme, None, graph))) == 48 - 2
    assert preview_widths(allocation="global") == preview_widths(
        exclude=["conv1"], layers={"conv2": 0.0}
    )  # not known before training


def test_sensitivity_table_allocates_ratio() -> None:
    """Most channels are removed where the cost is lowest; the costs of added layers are summed."""
    costs = {"stem": 0.0, "stack1_conv1": 0.0, "stack1_conv2": 0.5}
    names = [layer for layer in list_widths(build_model(ResNet8())) if layer != "logits"]
    rows = {
        name: LayerSensitivity([name], 1, {"sparsity": {0.5: 1 - costs.get(name, 0.1), 0.9: 1 - costs.get(name, 0.4)}})
        for name in names
    }
    table = SensitivityTable(1.0, 0.25, 100, rows)
    stage = make_stage(allocation="sensitivity", ratio=0.4, round_to=1, layers={"stack3_conv1": 0.25})
    narrow, descriptions = stage.preview(build_model(ResNet8()), table)
    widths = list_widths(narrow)
    assert widths["stack1_conv1"] < 0.5 * 16 < widths["stem"] == widths["stack1_conv2"] == 16
    assert widths["stack3_conv1"] == 48
    shared = {"stack1_conv1": 16, "stem": 16, "stack2_conv1": 32, "stack2_conv2": 32, "stack3_conv2": 64}
    assert sum(widths[name] for name in shared) == pytest.approx(0.6 * sum(shared.values()), abs=2)
    assert f"Conv2D: {widths['stack1_conv1']} of 16 channels stay" in dict(descriptions).values()
    widest, descriptions = stage.preview(build_model(ResNet8()))
    assert list_widths(widest)["stack1_conv1"] == 16  # the widest it may be
    assert dict(descriptions)["stack1_conv1"] == "Conv2D: of 16 channels some go, how many by the table of sensitivity"
    assert dict(descriptions)["stack3_conv1"] == "Conv2D: 48 of 64 channels stay"


@cache
def build_resnet_graph() -> Any:
    from lightexp.backend.channels import ChannelGraph

    return ChannelGraph(build_model(ResNet8()))


@settings(max_examples=25)
@given(
    budget=st.sampled_from(["macs", "params"]),
    share=st.floats(0.1, 1),
    allocation=st.sampled_from(["uniform", "global"]),
    round_to=st.sampled_from([1, 8]),
)
def test_budget_is_met_and_used(budget: str, share: float, allocation: str, round_to: int) -> None:
    from lightexp.stages.channel_selection import ChannelTarget

    graph = build_resnet_graph()
    stage = make_stage(budget=budget, share=share, allocation=allocation, round_to=round_to)
    scores = np.random.default_rng(0).random(graph.count)
    removed = stage.select_removed(graph, scores, ChannelTarget.from_stage(stage, None, graph))
    used = getattr(graph.compute_cost(removed), budget) / getattr(graph.compute_cost(), budget)
    assert used <= share
    assert used > share - (0.25 if round_to > 1 else 0.1)


def test_file_meets_budget_of_bytes(tiny_runs: TinyRuns) -> None:
    at = "pipeline.stages.prune_channels"
    record = tiny_runs.run("pipeline=prune_channels", f"{at}.budget=file_bytes", f"{at}.share=0.7", f"{at}.round_to=1")
    sizes = [stage.metric("size/file_bytes") or 0 for stage in record.stages]
    assert 0.55 * sizes[0] < sizes[1] <= 0.7 * sizes[0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"exclude": ["conv*"]}, "no layer whose channels may go"),
        ({"exclude": ["cnov1"]}, "exclude: 'cnov1' matches no layer with channels: conv1, conv2, logits"),
        ({"layers": {"logits": 0.5}}, "layers: 'logits' matches no layer that is pruned. These are: conv1, conv2"),
        ({"layers": {"conv*": 0.5, "conv1": 0.2}}, "layers: conv1 is given several ratios"),
        ({"ratio": 0.99}, "conv1: a ratio of 0.99 leaves none of its 16 channels. Give it at most 0.938"),
        ({"budget": "params", "layers": {"conv1": 0.98}}, "conv1: a ratio of 0.98 leaves none of its 16"),
        (
            {"budget": "macs", "share": 0.001},
            "budget=macs, share=0.001: even one channel in every layer leaves 0.009 of it",
        ),
        ({"budget": "macs", "share": 2.0}, "s.share: Input should be less than or equal to 1. Received: 2.0"),
        ({"ratio": 1.0}, "s.ratio: Input should be less than 1"),
        ({"layers": {"conv1": 1.0}}, "Input should be less than 1"),
    ],
)
def test_impossible_settings_are_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=r".") as error:
        preview_widths(**values)
    assert message in str(error.value)


def make_data() -> Data:
    rng = np.random.default_rng(0)
    split = Split(rng.integers(0, 256, (70, *SHAPE), np.uint8), rng.integers(0, 4, 70).astype(np.int32))
    return Data("d", split, split, split, 4, 1 / 255)


def test_criteria_equal_their_formulas() -> None:
    from lightexp.backend.channels import ChannelGraph
    from lightexp.backend.importance import score_channels

    model = build_model()
    rng = np.random.default_rng(1)
    model.get_layer("norm1").gamma.assign(rng.normal(size=16))
    graph = ChannelGraph(model)
    row = graph.output_channels["conv1"]
    kernel = model.get_layer("conv1").kernel.numpy().reshape(-1, 16)

    def scores(criterion: str, seed: int = 0) -> Any:
        return score_channels(model, graph, criterion, seed, make_data())[row]

    assert scores("l1") == pytest.approx(np.abs(kernel).sum(axis=0))
    assert scores("l2") == pytest.approx(np.sqrt((kernel**2).sum(axis=0)))
    assert scores("bn_scale") == pytest.approx(np.abs(model.get_layer("norm1").gamma.numpy()))
    assert (scores("random") != scores("random", 1)).all()
    assert (scores("random") == scores("random")).all()
    assert scores("l1")[np.argsort(scores("taylor"))].tolist() != sorted(scores("l1"))


def test_taylor_scores_unused_filters_zero() -> None:
    from lightexp.backend.channels import ChannelGraph
    from lightexp.backend.importance import score_channels

    model = build_model()
    kernel = model.get_layer("conv2").kernel
    array = kernel.numpy()
    array[:, :, [2, 5, 11], :] = 0
    kernel.assign(array)
    graph = ChannelGraph(model)
    scores = score_channels(model, graph, "taylor", 0, make_data())[graph.output_channels["conv1"]]
    assert set(np.flatnonzero(scores == 0).tolist()) == {2, 5, 11}


def test_bn_scale_needs_batch_normalisation() -> None:
    from lightexp.backend.channels import ChannelGraph
    from lightexp.backend.importance import score_channels
    from lightexp.models.lenet5 import LeNet5

    model = build_model(LeNet5())
    with pytest.raises(BadInput, match=r"criterion=bn_scale needs batch normalisation\. There is none after 'conv1'"):
        score_channels(model, ChannelGraph(model), "bn_scale", 0)


def test_preserves_nothing() -> None:
    assert not any(
        make_stage().preserves(Invariant(kind)) for kind in ("sparsity", "n_m", "blocks", "codebook", "dtype")
    )


@pytest.mark.parametrize("criterion", ["l2", "bn_scale", "taylor", "random"])
def test_criterion_gives_smaller_model(tiny_runs: TinyRuns, criterion: str) -> None:
    at = "pipeline.stages.prune_channels"
    record = tiny_runs.run("pipeline=prune_channels", f"{at}.criterion={criterion}")
    assert record.stages[1].facts["channels"] == {"conv1": [8, 4], "conv2": [16, 8], "logits": [4, 4]}
    before, after = (s.metric("compute/macs") or 0 for s in record.stages)
    assert after < 0.5 * before


def test_rounds_end_at_same_ratio(tiny_runs: TinyRuns) -> None:
    at = "pipeline.stages.prune_channels"
    single = tiny_runs.run("pipeline=prune_channels").stages[1]
    thrice = tiny_runs.run("pipeline=prune_channels", f"{at}.iterations=3").stages[1]
    assert thrice.facts["channels"] == single.facts["channels"]
    assert len(thrice.facts["history"]["loss"]) == 3
    overrides = [f"{at}.iterations=3", f"{at}.allocation=global", f"{at}.budget=macs", f"{at}.round_to=1"]
    start, end = (s.metric("compute/macs") or 0 for s in tiny_runs.run("pipeline=prune_channels", *overrides).stages)
    assert 0.4 * start < end <= 0.5 * start


def test_later_stages_use_smaller_model(tiny_runs: TinyRuns) -> None:
    """In the plan, in the file, and when trained from scratch."""
    from lightexp.runner.preview import preview_plan

    overrides = [
        "pipeline=prune_channels",
        "+stage@pipeline.stages.prune=prune",
        "pipeline.stages.prune.from_scratch=true",
        "pipeline.order=[train,prune_channels,prune]",
    ]
    plan, source = tiny_runs.plan(*overrides)
    descriptions = preview_plan(plan, tiny_runs.compose_settings(*overrides), source)
    assert descriptions[1] == [
        ("conv1", "Conv2D: 4 of 8 channels stay"),
        ("norm1", "BatchNormalization: follows the layers before it"),
        ("conv2", "Conv2D: 8 of 16 channels stay"),
        ("norm2", "BatchNormalization: follows the layers before it"),
        ("logits", "Dense: all 4 channels stay, they are the model's output"),
    ]
    assert descriptions[2][0] == ("conv1", "Conv2D (3, 3, 1, 4): sparsity 0.8")
    record = tiny_runs.run(*overrides)
    assert record.stages[2].facts["sizes"] == {"conv1": 36, "conv2": 288, "logits": 128}
