"""Tests of weight clustering: numbers of values, invariants, and the values in the file."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lightexp.core.config import construct
from lightexp.core.errors import BadInput, RunFailed
from lightexp.core.protocols import Invariant, Layer
from lightexp.core.tflite_graph import Operator, Tensor, TFLiteGraph
from lightexp.objectives.cross_entropy import CrossEntropy
from lightexp.stages.cluster import Cluster
from tests.tiny_runs import TinyRuns

LAYERS = [
    Layer("conv1", "Conv2D", (3, 3, 1, 2), 20),
    Layer("norm1", "BatchNormalization", None, 32),
    Layer("depth1", "DepthwiseConv2D", (3, 3, 8, 1), 72),
    Layer("dense1", "Dense", (64, 10), 650),
]


def cluster(**settings: Any) -> Cluster:
    return Cluster(objective=CrossEntropy(), **settings)


def test_describe_layers_gives_values_or_reason() -> None:
    assert dict(cluster(k=32).describe_layers(LAYERS)) == {
        "conv1": "Conv2D: left alone, it has no more weights than values",
        "norm1": "BatchNormalization: left alone, it has no kernel",
        "depth1": "DepthwiseConv2D: left alone, depthwise kernels are not clustered",
        "dense1": "Dense (64, 10): 32 values",
    }
    assert cluster(k=32, layers={"conv*": 4}, exclude=["dense1"]).select_sizes(LAYERS) == {"conv1": 4}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": {"conv9": 4}}, "no layer's name matches 'conv9'"),
        ({"layers": {"norm1": 4}}, "'norm1' matches no layer that is clustered. These are: conv1, dense1"),
        ({"layers": {"conv1": 4, "conv*": 8}}, "conv1 is given several numbers of values"),
        ({"k": 640}, "no layer that can be clustered into k=640 values, which must be fewer than its weights"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        cluster(**settings).describe_layers(LAYERS)


def test_k_of_one_is_refused() -> None:
    with pytest.raises(BadInput, match=r"^c.k: Input should be greater than or equal to 2. Received: 1"):
        construct(Cluster, {"objective": CrossEntropy(), "k": 1}, "c")


def test_preserves_zeros_and_larger_codebooks() -> None:
    for kind in ("sparsity", "n_m", "blocks"):
        assert cluster(exclude=["conv1"]).preserves(Invariant(kind, 0.5))
    assert cluster(k=16).preserves(Invariant("codebook", 16))
    assert not cluster(k=16).preserves(Invariant("codebook", 8))
    assert not cluster(k=8, layers={"a": 32}).preserves(Invariant("codebook", 16))
    assert not cluster(k=8, exclude=["conv1"]).preserves(Invariant("codebook", 16))
    assert not cluster().preserves(Invariant("dtype"))
    assert cluster(k=8, layers={"a": 32}).establishes() == (Invariant("codebook", 32),)


def make_graph(*kernels: Any, scales: int = 0) -> TFLiteGraph:
    tensors = [Tensor("x", (1, 4), "FLOAT32", None)]
    tensors += [Tensor(f"k{i}", k.shape, "FLOAT32", k, (0.5,) * scales) for i, k in enumerate(kernels)]
    ops = tuple(Operator("FULLY_CONNECTED", (0, i + 1), (0,)) for i in range(len(kernels)))
    return TFLiteGraph(tuple(tensors), ops, (0,), (0,))


def test_verify_counts_per_channel_and_in_total() -> None:
    facts = {"values": {"a": 2}, "sizes": {"a": 12}, "unscaled": {"a": 2}}
    rows = np.array([[0, 1, 1], [1, 0, 0], [0, 1, 0], [1, 1, 1]])  # as in a flatbuffer: four outputs
    scaled = rows * np.array([[1], [2], [3], [4]])
    assert cluster().verify("codebook", facts, make_graph(rows)) is None
    assert cluster().verify("codebook", facts, make_graph(scaled, scales=4)) is None
    assert cluster().verify("codebook", facts, make_graph(scaled)) == (
        "a kernel of 12 weights has 5 values in all, was to have 2"
    )
    assert cluster().verify("codebook", facts | {"unscaled": {}}, make_graph(scaled)) is None
    three_values = np.array([[0, 1, 2], *rows[1:]])
    assert cluster().verify("codebook", facts, make_graph(three_values, scales=4)) == (
        "a kernel of 12 weights has 3 values in a channel, was to have 2"
    )


def test_layers_and_exclude_reach_the_file(tiny_runs: TinyRuns) -> None:
    at = "pipeline.stages.cluster"
    overrides = ["pipeline=control", "+stage@pipeline.stages.cluster=cluster", "pipeline.order=[train,cluster]"]
    overrides += ["model=lenet_300_100", f"+{at}.layers.logits=3", f"{at}.k=5", f"{at}.exclude=[dense1]"]
    record = tiny_runs.run(*overrides)
    values = [len(np.unique(tensor.data)) for _, tensor in tiny_runs.read_graph(record).kernels]
    assert values[0] > 100
    assert values[1:] == [5, 3]
    assert record.stages[-1].facts["values"] == {"dense2": 5, "logits": 3}


def test_kernels_with_few_values_are_left_as_they_are(tiny_runs: TinyRuns) -> None:
    at = "pipeline.stages.again"
    overrides = ["pipeline=control", "+stage@pipeline.stages.cluster=cluster", "+stage@pipeline.stages.again=cluster"]
    overrides += ["pipeline.order=[train,cluster,again]", "model=lenet_300_100", "pipeline.stages.cluster.k=4"]
    overrides += ["pipeline.waive=[codebook]"]
    record = tiny_runs.run(*overrides, f"+{at}.layers.logits=2", f"{at}.k=6")
    reason = "4 values already, no more than 6"
    assert record.stages[-1].facts["note"] == f"left as they are: dense1 ({reason}), dense2 ({reason})"
    with pytest.raises(RunFailed, match=r"^again: k=6: no kernel has more values than it may have"):
        tiny_runs.run(*overrides, f"{at}.k=6")
