"""Tests of rate-aware training in real runs: grids in the file, smaller encoded files, refused settings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lightexp.core.config import construct
from lightexp.core.errors import BadInput, RunFailed
from lightexp.core.grids import find_channel_steps
from lightexp.core.patterns import read_kernel
from lightexp.core.protocols import Invariant, Layer
from lightexp.core.store import Store
from lightexp.objectives.cross_entropy import CrossEntropy
from lightexp.stages.prune import Prune
from lightexp.stages.qat import Qat
from lightexp.stages.quantize import Quantize
from lightexp.stages.rate import Rate
from tests.tiny_runs import TinyRuns

LAYERS = [
    Layer("conv1", "Conv2D", (3, 3, 1, 2), 20),
    Layer("norm1", "BatchNormalization", None, 32),
    Layer("depth1", "DepthwiseConv2D", (3, 3, 8, 1), 72),
    Layer("dense1", "Dense", (64, 10), 650),
]
RATE = "pipeline.stages.rate"


def rate(**settings: Any) -> Rate:
    return Rate(objective=CrossEntropy(), **settings)


def test_describe_layers_gives_grid_or_reason() -> None:
    assert dict(rate(exclude=["conv*"], layers={"dense1": 0.5}).describe_layers(LAYERS)) == {
        "conv1": "Conv2D: trained as usual, excluded",
        "norm1": "BatchNormalization: trained as usual, it is a normalisation",
        "depth1": "DepthwiseConv2D: a learned step, any number of steps",
        "dense1": "Dense: a learned step, any number of steps, 0.5 times the price",
    }
    descriptions = dict(rate(bits=4, layer_bits={"de*1": 8}, granularity="channel").describe_layers(LAYERS))
    assert descriptions["conv1"] == "Conv2D: a learned step per channel, at most 7 steps"
    assert descriptions["depth1"] == "DepthwiseConv2D: a learned step per channel, at most 127 steps"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": {"conv9": 0.5}}, "no layer's name matches 'conv9'"),
        ({"layers": {"norm1": 0.5}}, "'norm1' matches no layer that is on a grid. These are: conv1, depth1, dense1"),
        ({"layers": {"conv1": 1.0, "conv*": 0.5}}, "conv1 is given several factors"),
        ({"layer_bits": {"norm1": 4}}, "'norm1' matches no layer that is on a grid"),
        ({"exclude": ["*"]}, "no layer to put on a grid"),
    ],
)
def test_impossible_patterns_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        rate(**settings).describe_layers(LAYERS)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bits": 3}, "^r.bits: Input should be 2, 4 or 8. Received: 3"),
        ({"rate": float("nan")}, "^r.rate: .* Received: nan"),
        ({"rate": float("inf")}, "^r.rate: .* Received: inf"),
        ({"rate": 0.0}, "rate=0 without bits limits nothing"),
        (
            {"bytes": "12 potatoes"},
            "^r.bytes: Input should be a number of bytes, or a size such as 12KiB or 1.5MB. Rec",
        ),
        ({"bytes": "0KiB"}, "^r.bytes: Input should be greater than or equal to 1. Received: "),
        ({"ratio": 9.0, "bytes": 9}, "ratio, bytes and budget exclude each other. Received: ratio=9.0, bytes=9"),
        ({"bytes": 9, "early_stopping": 2}, "a target needs a rate to begin with, and a training without early_stop"),
        ({"rate": 0.0, "bits": 4, "bytes": 9}, "a target needs a rate to begin with"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        construct(Rate, {"objective": CrossEntropy(), **settings}, "r")


def test_size_may_have_a_unit() -> None:
    assert construct(Rate, {"objective": CrossEntropy(), "bytes": "12KiB"}, "r").bytes == 12 * 1024


def test_which_stages_preserve_the_grid() -> None:
    zeros, grid = rate(bits=4).establishes()
    assert (zeros, grid) == (Invariant("sparsity", 1.0), Invariant("grid", 4))
    assert Quantize(scheme="dynamic", bits=4).preserves(grid)
    assert Quantize().preserves(rate().establishes()[1])
    assert rate(bits=4, layer_bits={"a": 8}).establishes()[1] == Invariant("grid", 8)
    assert rate(layer_bits={"a": 8}).establishes()[1] == Invariant("grid", 0)
    for settings in ({"scheme": "dynamic", "bits": 2}, {"scheme": "float16"}, {"scales": "range"}):
        assert not Quantize(**settings).preserves(grid)  # type: ignore[arg-type]
    assert not Quantize(scheme="dynamic", bits=4).preserves(Invariant("grid", 0))
    for stage in (Qat(objective=CrossEntropy()), Prune(objective=CrossEntropy(), sparsity=0.99)):
        assert not stage.preserves(grid)
    resolved = Qat(objective=CrossEntropy()).resolve((zeros, grid))
    assert resolved.scheme == "prune"
    assert Quantize().resolve((zeros, grid)).scales == "grid"
    assert Quantize().resolve((zeros,)) == Quantize()


@pytest.mark.parametrize("scratch", [True, False], ids=["scratch", "trained"])
def test_encoded_file_is_smaller_than_without(tiny_runs: TinyRuns, scratch: bool) -> None:
    settings = [f"{RATE}.batch_size=16", f"{RATE}.rate=2", f"{RATE}.from_scratch={str(scratch).lower()}"]
    record = tiny_runs.run("model=lenet_300_100", "pipeline=rate_encode", *settings)
    control, trained, encoded = record.stages
    assert encoded.metric("size/encoded_bytes") < 0.25 * control.metric("size/file_bytes")  # type: ignore[operator]
    assert trained.metric("model/sparsity") > 0.3  # type: ignore[operator]
    assert encoded.metric("accuracy/val") == trained.metric("accuracy/val")


def test_encoded_file_gets_the_requested_size(tiny_runs: TinyRuns) -> None:
    settings = [f"{RATE}.batch_size=8", f"{RATE}.learning_rate=0.01", f"{RATE}.rate=3"]
    overrides = ["model=lenet_300_100", "model.width=0.5", "pipeline=rate_encode", *settings]
    plain = tiny_runs.run(*overrides).stages[-1].metric("size/encoded_bytes")
    record = tiny_runs.run(*overrides, f"{RATE}.bytes={plain:.0f}")
    assert record.stages[1].facts["final_rate"] == pytest.approx(3)  # there is nothing to adjust
    record = tiny_runs.run(*overrides, f"{RATE}.ratio=24")
    assert record.metrics["size/encoded_ratio"] == pytest.approx(24, rel=0.03)
    assert record.stages[1].facts["reached"] == record.stages[-1].metric("size/encoded_bytes")
    with pytest.raises(RunFailed, match=r"the encoded file cannot have \d+ bytes: without weights it has"):
        tiny_runs.run(*overrides, f"{RATE}.ratio=3000")


def test_size_of_no_weights_is_refused_before_training(tiny_runs: TinyRuns) -> None:
    overrides = ["model=lenet_300_100", "pipeline=rate_encode", "seed=77", f"{RATE}.bytes=300"]
    with pytest.raises(BadInput, match="the encoded file cannot have 300 bytes: without weights it has"):
        tiny_runs.run(*overrides)
    plan, _ = tiny_runs.plan(*overrides)
    assert not Store(tiny_runs.outputs / "store").has(plan.nodes[0].key)


def test_teacher_changes_the_training_on_grids(tiny_runs: TinyRuns) -> None:
    plain = tiny_runs.run("pipeline=rate")
    distilled = tiny_runs.run("pipeline=rate", "objective@pipeline.stages.rate.objective=distill")
    facts = distilled.stages[1].facts
    assert facts["history"]["loss"] != plain.stages[1].facts["history"]["loss"]
    assert set(facts["integers"]) == set(plain.stages[1].facts["integers"])
    assert distilled.status == "done"  # the file has been checked for the integers


@pytest.mark.parametrize(("tolerance", "missed"), [(80.0, False), (0.0, True)])
def test_accuracy_budget_is_kept_or_noted(tiny_runs: TinyRuns, tolerance: float, missed: bool) -> None:
    settings = [f"{RATE}.budget=accuracy", f"{RATE}.tolerance={tolerance}", "pipeline.stages.train.batch_size=8"]
    record = tiny_runs.run("model=lenet_300_100", "pipeline=rate", *settings)
    control, trained = (stage.metric("accuracy/val") for stage in record.stages)
    facts = record.stages[1].facts
    assert facts["reached"] == pytest.approx(trained)
    assert (trained < control - tolerance / 100) == missed  # type: ignore[operator]
    assert ("begin at a lower rate" in facts.get("note", "")) == missed


@pytest.mark.parametrize(
    ("bits", "settings", "dtypes"),
    [
        ("null", ["scheme=int8"], {"INT8"}),
        ("8", ["scheme=weight_only"], {"INT8"}),
        ("4", ["scheme=dynamic", "bits=4"], {"INT4"}),
        ("2", ["scheme=dynamic", "bits=2"], {"INT2", "INT4"}),
        ("4", [], {"INT8", "FLOAT32"}),
    ],
)
def test_quantized_file_has_the_trained_integers(
    tiny_runs: TinyRuns, bits: str, settings: list[str], dtypes: set[str]
) -> None:
    """Also where batch normalisation gives each channel a factor, which the file has in its scales."""
    overrides = ["pipeline=rate", f"{RATE}.bits={bits}", "+stage@pipeline.stages.quantize=quantize"]
    overrides += [f"pipeline.stages.quantize.{value}" for value in settings]
    record = tiny_runs.run(*overrides, "pipeline.order=[train,rate,quantize]")
    kernels = [kernel for _, kernel in tiny_runs.read_graph(record).kernels]
    assert {kernel.dtype for kernel in kernels} == dtypes
    folder = tiny_runs.outputs / "store"
    [weights] = folder.rglob(f"{record.stages[1].key}/weights.npz")
    with np.load(weights) as arrays:
        trained = [array for array in arrays.values() if array.ndim > 1]
    for kernel, array in zip(kernels, trained, strict=True):
        steps = find_channel_steps(array)
        integers = np.round(array / steps).reshape(-1, array.shape[-1])
        shipped = read_kernel(kernel).reshape(integers.shape).astype(np.float64)
        divisors = np.array([find_channel_steps(channel[:, None]) for channel in shipped.T]).reshape(-1)
        integers = np.abs(integers / np.maximum(np.gcd.reduce(integers.astype(int), axis=0), 1))
        np.testing.assert_array_equal(np.round(np.abs(shipped / divisors)), integers)


def test_layer_without_weights_fails_unless_allowed(tiny_runs: TinyRuns) -> None:
    overrides = ["model=lenet_300_100", "pipeline=rate", f"{RATE}.rate=1e6", f"{RATE}.batch_size=8"]
    with pytest.raises(RunFailed, match=r"every weight of 'dense1' became zero. Received: rate=1e\+06. Lower rate"):
        tiny_runs.run(*overrides, f"{RATE}.learning_rate=0.1")
    record = tiny_runs.run(*overrides, f"{RATE}.learning_rate=0.1", f"{RATE}.allow_dead_layers=true")
    assert record.metrics["model/sparsity"] > 0.9
