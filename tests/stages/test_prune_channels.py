from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightexp.core.config import construct
from lightexp.core.data import Data, Split
from lightexp.core.errors import BadInput
from lightexp.core.protocols import Artifact, Context, Invariant
from lightexp.core.sensitivity import LayerSensitivity, SensitivityTable
from lightexp.models.resnet8 import ResNet8
from lightexp.models.small_cnn import SmallCnn
from lightexp.objectives.cross_entropy import CrossEntropy
from lightexp.runner.progress import SilentReporter
from lightexp.stages.prune_channels import PruneChannels
from tests.tiny_runs import TinyRuns

pytestmark = pytest.mark.usefixtures("tensorflow")
SHAPE = (8, 8, 1)


def stage(**values: Any) -> PruneChannels:
    return construct(PruneChannels, {"objective": CrossEntropy(), "epochs": 1, **values}, "s")


def model(kind: Any = None) -> Any:
    from lightexp.backend import session

    session.reset_graph(0)
    return (kind or SmallCnn()).build(SHAPE, 4)


def widths(built: Any) -> dict[str, int]:
    return {layer.name: int(layer.output.shape[-1]) for layer in built.layers if hasattr(layer, "kernel")}


def left(kind: Any = None, **values: Any) -> dict[str, int]:
    return widths(stage(**values).preview(model(kind))[0])


def test_each_layer_loses_its_share() -> None:
    assert left() == {"conv1": 8, "conv2": 16, "logits": 4}
    assert left(ratio=0.25, round_to=4) == {"conv1": 12, "conv2": 24, "logits": 4}
    assert left(layers={"conv1": 0.75}) == {"conv1": 4, "conv2": 16, "logits": 4}
    assert left(exclude=["conv2"]) == {"conv1": 8, "conv2": 32, "logits": 4}
    assert left(SmallCnn(1 / 16), ratio=0.5) == {"conv1": 1, "conv2": 1, "logits": 4}  # of one, half is one


def test_wide_layers_keep_a_round_number() -> None:
    assert left(ratio=0.4) == {"conv1": 8, "conv2": 16, "logits": 4}  # not 9.6 and 19.2
    assert left(ratio=0.4, round_to=1) == {"conv1": 10, "conv2": 19, "logits": 4}
    assert left(ratio=0.9) == {"conv1": 2, "conv2": 4, "logits": 4}  # of 3.2, which is no 8


def test_what_is_added_is_one_layer() -> None:
    kept = left(ResNet8(), layers={"stem": 0.75})
    assert (kept["stem"], kept["stack1_conv2"], kept["stack1_conv1"]) == (4, 4, 8)
    assert left(ResNet8(), exclude=["stack1_conv2"])["stem"] == 16
    with pytest.raises(BadInput, match=r"^layers: .*stem.* must be one ratio, since these layers are added"):
        left(ResNet8(), layers={"stem": 0.5, "stack1_conv2": 0.25})


def test_a_global_ranking_takes_where_it_is_lowest() -> None:
    from lightexp.backend.channels import ChannelGraph
    from lightexp.stages.channel_selection import ChannelTarget

    graph = ChannelGraph(model())
    scores = np.ones(graph.count)
    scores[graph.output_channels["conv1"][:10]] = 0.1
    chosen = stage(allocation="global", ratio=0.25, round_to=1)
    gone = chosen.select_removed(graph, scores, ChannelTarget.from_stage(chosen, None, graph))
    assert gone >= set(graph.output_channels["conv1"][:10].tolist())
    assert len(gone) == 12  # of 48
    everything = stage(allocation="global", ratio=0.99)
    assert len(everything.select_removed(graph, scores, ChannelTarget.from_stage(everything, None, graph))) == 48 - 2
    assert left(allocation="global") == left(exclude=["conv1"], layers={"conv2": 0.0})  # nothing is known before


def test_the_table_of_sensitivity_shares_the_ratio_out() -> None:
    """The most goes where it costs the least; layers that are added cost what all of them do."""
    costs = {"stem": 0.0, "stack1_conv1": 0.0, "stack1_conv2": 0.5}
    names = [layer for layer in widths(model(ResNet8())) if layer != "logits"]
    rows = {
        n: LayerSensitivity([n], 1, {"sparsity": {0.5: 1 - costs.get(n, 0.1), 0.9: 1 - costs.get(n, 0.4)}})
        for n in names
    }
    table = SensitivityTable(1.0, 0.25, 100, rows)
    chosen = stage(allocation="sensitivity", ratio=0.4, round_to=1, layers={"stack3_conv1": 0.25})
    narrow, words = chosen.preview(model(ResNet8()), table)
    kept = widths(narrow)
    assert kept["stack1_conv1"] < 0.5 * 16 < kept["stem"] == kept["stack1_conv2"] == 16
    assert kept["stack3_conv1"] == 48
    free = {"stack1_conv1": 16, "stem": 16, "stack2_conv1": 32, "stack2_conv2": 32, "stack3_conv2": 64}
    assert sum(kept[n] for n in free) == pytest.approx(0.6 * sum(free.values()), abs=2)
    assert f"Conv2D: {kept['stack1_conv1']} of 16 channels stay" in dict(words).values()
    whole, words = chosen.preview(model(ResNet8()))
    assert widths(whole)["stack1_conv1"] == 16  # it may stay as wide
    assert dict(words)["stack1_conv1"] == "Conv2D: of 16 channels some go, how many by the table of sensitivity"
    assert dict(words)["stack3_conv1"] == "Conv2D: 48 of 64 channels stay"


@cache
def resnet() -> Any:
    from lightexp.backend.channels import ChannelGraph

    return ChannelGraph(model(ResNet8()))


@settings(max_examples=25)
@given(
    budget=st.sampled_from(["macs", "params"]),
    share=st.floats(0.1, 1),
    allocation=st.sampled_from(["uniform", "global"]),
    round_to=st.sampled_from([1, 8]),
)
def test_a_budget_is_kept_and_used(budget: str, share: float, allocation: str, round_to: int) -> None:
    from lightexp.stages.channel_selection import ChannelTarget

    graph = resnet()
    chosen = stage(budget=budget, share=share, allocation=allocation, round_to=round_to)
    scores = np.random.default_rng(0).random(graph.count)
    gone = chosen.select_removed(graph, scores, ChannelTarget.from_stage(chosen, None, graph))
    used = getattr(graph.compute_cost(gone), budget) / getattr(graph.compute_cost(), budget)
    assert used <= share
    assert used > share - (0.25 if round_to > 1 else 0.1)


def test_a_budget_of_bytes_is_kept_by_the_file(tiny_runs: TinyRuns) -> None:
    at = "pipeline.stages.prune_channels"
    record = tiny_runs.run("pipeline=prune_channels", f"{at}.budget=file_bytes", f"{at}.share=0.7", f"{at}.round_to=1")
    sizes = [stage.metric("size/file_bytes") or 0 for stage in record.stages]
    assert 0.55 * sizes[0] < sizes[1] <= 0.7 * sizes[0]


@pytest.mark.parametrize(
    ("values", "words"),
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
        ({"budget": "macs", "share": 2.0}, "s: share must be at most 1. Received: 2.0"),
        ({"ratio": 1.0}, "s.ratio: Input should be less than 1"),
        ({"layers": {"conv1": 1.0}}, "Input should be less than 1"),
    ],
)
def test_what_cannot_be_done_is_one_line(values: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=r".") as error:
        left(**values)
    assert words in str(error.value)


def data() -> Data:
    rng = np.random.default_rng(0)
    split = Split(rng.integers(0, 256, (70, *SHAPE), np.uint8), rng.integers(0, 4, 70).astype(np.int32))
    return Data("d", split, split, split, 4, 1 / 255)


def test_each_criterion_ranks_by_what_it_says() -> None:
    from lightexp.backend.channels import ChannelGraph
    from lightexp.backend.importance import score_channels

    built = model()
    rng = np.random.default_rng(1)
    built.get_layer("norm1").gamma.assign(rng.normal(size=16))
    graph = ChannelGraph(built)
    row = graph.output_channels["conv1"]
    kernel = built.get_layer("conv1").kernel.numpy().reshape(-1, 16)

    def scores(criterion: str, seed: int = 0) -> Any:
        return score_channels(built, graph, criterion, seed, data())[row]

    assert scores("l1") == pytest.approx(np.abs(kernel).sum(axis=0))
    assert scores("l2") == pytest.approx(np.sqrt((kernel**2).sum(axis=0)))
    assert scores("bn_scale") == pytest.approx(np.abs(built.get_layer("norm1").gamma.numpy()))
    assert (scores("random") != scores("random", 1)).all()
    assert (scores("random") == scores("random")).all()
    assert scores("l1")[np.argsort(scores("taylor"))].tolist() != sorted(scores("l1"))


def test_taylor_finds_the_filters_that_nobody_reads() -> None:
    from lightexp.backend.channels import ChannelGraph
    from lightexp.backend.importance import score_channels

    built = model()
    kernel = built.get_layer("conv2").kernel
    blind = kernel.numpy()
    blind[:, :, [2, 5, 11], :] = 0
    kernel.assign(blind)
    graph = ChannelGraph(built)
    scores = score_channels(built, graph, "taylor", 0, data())[graph.output_channels["conv1"]]
    assert set(np.flatnonzero(scores == 0).tolist()) == {2, 5, 11}


def test_bn_scale_needs_batch_normalisation() -> None:
    from lightexp.backend.channels import ChannelGraph
    from lightexp.backend.importance import score_channels
    from lightexp.models.lenet5 import LeNet5

    built = model(LeNet5())
    with pytest.raises(BadInput, match=r"criterion=bn_scale needs batch normalisation\. There is none after 'conv1'"):
        score_channels(built, ChannelGraph(built), "bn_scale", 0)


def test_weights_that_are_nan_are_refused(tmp_path: Path) -> None:
    from lightexp.backend import keras_files

    built = model()
    built.get_layer("conv2").kernel.assign(built.get_layer("conv2").kernel * np.nan)
    keras_files.save_model(built, tmp_path)
    parent = Artifact("keras", tmp_path, {}, "k")
    with (
        SilentReporter().stage("w", 1, 1) as progress,
        pytest.raises(BadInput, match="'conv2' has weights that are NaN"),
    ):
        stage().apply(parent, Context(data(), SmallCnn(), 0, 1, tmp_path, progress))


def test_it_undoes_what_earlier_stages_made() -> None:
    assert not any(stage().preserves(Invariant(kind)) for kind in ("sparsity", "n_m", "blocks", "codebook", "dtype"))


@pytest.mark.parametrize("criterion", ["l2", "bn_scale", "taylor", "random"])
def test_every_criterion_makes_a_smaller_model(tiny_runs: TinyRuns, criterion: str) -> None:
    at = "pipeline.stages.prune_channels"
    record = tiny_runs.run("pipeline=prune_channels", f"{at}.criterion={criterion}")
    assert record.stages[1].facts["channels"] == {"conv1": [8, 4], "conv2": [16, 8], "logits": [4, 4]}
    before, after = (s.metric("compute/macs") or 0 for s in record.stages)
    assert after < 0.5 * before


def test_in_rounds_it_ends_where_one_round_does(tiny_runs: TinyRuns) -> None:
    at = "pipeline.stages.prune_channels"
    once = tiny_runs.run("pipeline=prune_channels").stages[1]
    thrice = tiny_runs.run("pipeline=prune_channels", f"{at}.iterations=3").stages[1]
    assert thrice.facts["channels"] == once.facts["channels"]
    assert len(thrice.facts["history"]["loss"]) == 3
    words = [f"{at}.iterations=3", f"{at}.allocation=global", f"{at}.budget=macs", f"{at}.round_to=1"]
    start, end = (s.metric("compute/macs") or 0 for s in tiny_runs.run("pipeline=prune_channels", *words).stages)
    assert 0.4 * start < end <= 0.5 * start


def test_later_stages_know_the_smaller_model(tiny_runs: TinyRuns) -> None:
    """Its plan, its file and its weights trained from scratch."""
    from lightexp.runner.preview import preview_plan

    words = [
        "pipeline=prune_channels",
        "+stage@pipeline.stages.prune=prune",
        "pipeline.stages.prune.from_scratch=true",
        "pipeline.order=[train,prune_channels,prune]",
    ]
    plan, source = tiny_runs.plan(*words)
    touched = preview_plan(plan, tiny_runs.settings(*words), source)[1]
    assert touched[1] == [
        ("conv1", "Conv2D: 4 of 8 channels stay"),
        ("norm1", "BatchNormalization: follows the layers before it"),
        ("conv2", "Conv2D: 8 of 16 channels stay"),
        ("norm2", "BatchNormalization: follows the layers before it"),
        ("logits", "Dense: all 4 channels stay, they are the model's output"),
    ]
    assert touched[2][0] == ("conv1", "Conv2D (3, 3, 1, 4): sparsity 0.8")
    record = tiny_runs.run(*words)
    assert record.stages[2].facts["sizes"] == {"conv1": 36, "conv2": 288, "logits": 128}
