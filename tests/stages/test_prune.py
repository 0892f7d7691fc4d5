"""Tests of weight pruning: targets, patterns, invariants, and the zeros in the file."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lightexp.core.errors import BadInput, RunFailed
from lightexp.core.protocols import Invariant, Layer
from lightexp.core.tflite_graph import Operator, Tensor, TFLiteGraph
from lightexp.objectives.cross_entropy import CrossEntropy
from lightexp.stages.prune import Prune
from tests.tiny_runs import TinyRuns

LAYERS = [
    Layer("conv1", "Conv2D", (3, 3, 1, 8), 80),
    Layer("norm1", "BatchNormalization", None, 32),
    Layer("depth1", "DepthwiseConv2D", (3, 3, 8, 1), 72),
    Layer("conv2", "Conv2D", (3, 3, 8, 16), 1168),
    Layer("dense1", "Dense", (64, 10), 650),
]


def prune(**settings: Any) -> Prune:
    return Prune(objective=CrossEntropy(), **settings)


def test_compute_targets_by_allocation_and_layers() -> None:
    assert prune().compute_targets(LAYERS) == {"conv1": 0.8, "conv2": 0.8, "dense1": 0.8}
    named = prune(layers={"conv1": 0.25}, exclude=["dense*"])
    assert named.compute_targets(LAYERS) == {"conv1": 0.25, "conv2": 0.8}
    assert prune(allocation="global", layers={"conv1": 0.0}).compute_targets(LAYERS) == {
        "conv1": 0.0,
        "conv2": None,
        "dense1": None,
    }


def test_describe_layers_gives_sparsity_or_reason() -> None:
    descriptions = dict(prune(exclude=["conv1"], layers={"dense1": 0.5}).describe_layers(LAYERS))
    assert descriptions == {
        "conv1": "Conv2D: left alone, excluded",
        "norm1": "BatchNormalization: left alone, it has no kernel",
        "depth1": "DepthwiseConv2D: left alone, depthwise kernels are not pruned",
        "conv2": "Conv2D (3, 3, 8, 16): sparsity 0.8",
        "dense1": "Dense (64, 10): sparsity 0.5",
    }
    assert dict(prune(allocation="global").describe_layers(LAYERS))["conv2"].endswith("global threshold")


@pytest.mark.parametrize("settings", [{"layers": {"conv9": 0.5}}, {"exclude": ["con1"]}])
def test_pattern_without_match_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match=r"no layer's name matches 'con.*'\. The model's layers: conv1, norm1"):
        prune(**settings).compute_targets(LAYERS)


def test_model_without_prunable_layers_is_refused() -> None:
    with pytest.raises(BadInput, match="no layer that can be pruned"):
        prune(exclude=["*"]).compute_targets(LAYERS)
    with pytest.raises(BadInput, match="no layer that can be pruned"):
        prune().compute_targets(LAYERS[1:3])


def test_preserves_earlier_sparsity() -> None:
    earlier = Invariant("sparsity", 0.8)
    assert prune(sparsity=0.8).preserves(earlier)
    assert prune(sparsity=0.9, layers={"conv1": 0.8}).preserves(earlier)
    destructive: list[dict[str, Any]] = [
        {"sparsity": 0.7},
        {"sparsity": 0.9, "layers": {"conv1": 0.5}},
        {"exclude": ["conv1"]},
        {"allocation": "global"},
        {"from_scratch": True},
    ]
    assert not any(prune(**settings).preserves(earlier) for settings in destructive)
    assert not prune().preserves(Invariant("dtype"))
    assert prune(sparsity=0.75).establishes() == (Invariant("sparsity", 0.75),)


def test_check_refuses_schedule_beyond_training() -> None:
    prune(epochs=2, batch_size=10, end_step=20).check(100)
    with pytest.raises(BadInput, match="ends at step 21, but training has 20 steps"):
        prune(epochs=2, batch_size=10, end_step=21).check(100)
    with pytest.raises(BadInput, match="is empty"):
        prune(epochs=1, batch_size=100).check(100)


def make_graph(*kernels: np.ndarray[Any, Any], **named: np.ndarray[Any, Any]) -> TFLiteGraph:
    tensors = [Tensor("x", (1, 4), "FLOAT32", None)]
    names = {f"k{i}": k for i, k in enumerate(kernels)} | {f"net/{name}/MatMul": k for name, k in named.items()}
    tensors += [Tensor(name, k.shape, "FLOAT32", k) for name, k in names.items()]
    ops = tuple(Operator("FULLY_CONNECTED", (0, i), (0,)) for i in range(1, len(tensors)))
    return TFLiteGraph(tuple(tensors), ops, (0,), (0,))


def make_kernel(zeros: int, size: int = 8) -> np.ndarray[Any, Any]:
    return (np.arange(size) >= zeros).astype(np.float32).reshape(2, -1)


def test_verify_finds_kernel_with_too_few_zeros() -> None:
    facts = {"zeros": {"a": 6, "b": 4, "c": 10}, "sizes": {"a": 8, "b": 8, "c": 12}}
    intact = [make_kernel(10, 12), make_kernel(4), make_kernel(6)]
    assert prune().verify("sparsity", facts, make_graph(*intact)) is None
    assert prune().verify("sparsity", facts, make_graph(*intact, make_kernel(0, 6))) is None
    assert prune().verify("sparsity", facts, make_graph(make_kernel(10, 12), make_kernel(5), make_kernel(5))) == (
        "a kernel of 8 weights has sparsity 0.625, was 0.750"
    )
    assert prune().verify("sparsity", facts, make_graph(make_kernel(4), make_kernel(6))) == (
        "a kernel of 12 weights has sparsity 0.000, was 0.833"
    )
    assert (
        prune().verify("sparsity", facts, make_graph(make_kernel(10, 12), a=make_kernel(6), b=make_kernel(4))) is None
    )
    assert prune().verify(
        "sparsity", facts, make_graph(make_kernel(10, 12), a=make_kernel(4), b=make_kernel(6))
    ) == (  # the zeros of the other layer
        "a kernel of 8 weights has sparsity 0.500, was 0.750"
    )


def run_prune(runs: TinyRuns, *overrides: str) -> tuple[dict[str, float], dict[str, int], TFLiteGraph]:
    record = runs.run("pipeline=prune", *overrides)
    facts = record.stages[-1].facts
    shares = {name: facts["zeros"][name] / size for name, size in facts["sizes"].items()}
    return shares, facts["sizes"], runs.read_graph(record)


def test_layers_and_exclude_reach_the_file(tiny_runs: TinyRuns) -> None:
    at = "pipeline.stages.prune"
    shares, sizes, shipped = run_prune(tiny_runs, f"+{at}.layers.conv1=0.25", f"{at}.exclude=[logits]")
    assert shares == pytest.approx({"conv1": 0.25, "conv2": 0.8}, abs=1e-3)
    kernels = {int(np.prod(kernel.shape)): kernel for _, kernel in shipped.kernels}
    assert kernels[sizes["conv2"]].zeros == round(shares["conv2"] * sizes["conv2"])
    assert kernels[min(kernels)].zeros == round(0.25 * sizes["conv1"])
    logits = next(kernel for size, kernel in kernels.items() if size not in sizes.values())
    assert logits.zeros == 0
    for tensor in kernels.values():
        assert not np.signbit(np.asarray(tensor.data)[np.asarray(tensor.data) == 0]).any()  # no -0.0


@pytest.mark.parametrize("allocation", ["global", "erk"])
def test_shared_allocation_reaches_total_sparsity(tiny_runs: TinyRuns, allocation: str) -> None:
    at = "pipeline.stages.prune"
    shares, sizes, _ = run_prune(tiny_runs, f"{at}.allocation={allocation}", f"{at}.criterion=random")
    total = sum(shares[name] * sizes[name] for name in sizes) / sum(sizes.values())
    assert total == pytest.approx(0.8, abs=2e-3)
    assert max(shares.values()) - min(shares.values()) > 0.02  # not uniform
    if allocation == "erk":
        assert shares["logits"] < shares["conv1"] < shares["conv2"]


def test_check_reached_fails_below_target() -> None:
    stage = prune(sparsity=0.5)
    stage.check_reached({"a": 0.5}, {"a": 49}, {"a": 100})
    with pytest.raises(RunFailed, match=r"a reached sparsity 0\.480, not 0\.500"):
        stage.check_reached({"a": 0.5}, {"a": 48}, {"a": 100})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n": 2}, "n and m belong together"),
        ({"n": 4, "m": 4}, "n and m belong together"),
        ({"n": 2, "m": 4, "sparsity": 0.9}, "fix the sparsity of every layer at 0.5: leave out sparsity"),
        ({"n": 2, "m": 4, "layers": {"a": 0.1}}, "leave out"),
        ({"n": 2, "m": 4, "block": [2, 2]}, "leave out"),
        ({"n": 1, "m": 4, "initial_sparsity": 0.8}, "must not be above sparsity. Received: 0.8 and 0.75"),
        ({"block": [2]}, r"block must be rows and columns, as in \[4,4\]. Received: \[2\]"),
    ],
)
def test_contradicting_pattern_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prune(**settings)


def test_pattern_invariants_and_skipped_layers() -> None:
    assert prune(n=1, m=4).establishes() == (Invariant("n_m", 0.25),)
    assert prune(block=[4, 4], sparsity=0.5).establishes() == (Invariant("blocks", 0.5),)
    for pattern in ("n_m", "blocks", "codebook"):
        assert not prune(sparsity=0.9).preserves(Invariant(pattern, 0.5))
    assert not prune(n=1, m=16).preserves(Invariant("sparsity", 0.5))
    descriptions = dict(prune(n=2, m=4).describe_layers([*LAYERS, Layer("odd", "Conv2DTranspose", (3, 3, 8, 8), 576)]))
    assert descriptions["conv1"] == "Conv2D: left alone, fewer than 4 inputs"
    assert descriptions["conv2"] == "Conv2D (3, 3, 8, 16): 2 of 4 stay"
    assert descriptions["odd"] == "Conv2DTranspose: left alone, only Dense, Conv1D, Conv2D are pruned in a pattern"
    assert (
        dict(prune(block=[4, 2]).describe_layers(LAYERS))["dense1"] == "Dense (64, 10): sparsity 0.8 in blocks of 4x2"
    )


@pytest.mark.parametrize("model", ["small_cnn", "lenet_300_100"])
@pytest.mark.parametrize("settings", [["n=2", "m=4"], ["block=[4,2]", "sparsity=0.5"]], ids=["n_m", "blocks"])
def test_pattern_reaches_file_and_loss_is_found(tiny_runs: TinyRuns, model: str, settings: list[str]) -> None:
    overrides = [f"model={model}", *(f"pipeline.stages.prune.{setting}" for setting in settings)]
    record = tiny_runs.run("pipeline=prune_int8", *overrides)  # the run verifies it
    stage = tiny_runs.compose_settings("pipeline=prune", *overrides).stages["prune"]
    [invariant] = stage.establishes()
    facts = record.stages[1].facts
    for intact in (record, tiny_runs.run("pipeline=prune", *overrides)):
        assert stage.verify(invariant.kind, facts, tiny_runs.read_graph(intact)) is None
    plain = tiny_runs.run("pipeline=prune", f"model={model}", "pipeline.stages.prune.sparsity=0.5")
    assert stage.verify(invariant.kind, facts, tiny_runs.read_graph(plain))  # as many zeros without the pattern
    share = 0.5 * sum(facts["sizes"].values())
    assert sum(facts["zeros"].values()) == pytest.approx(share, rel=0.05)
