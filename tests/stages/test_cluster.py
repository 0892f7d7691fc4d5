from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lightexp.core.config import construct
from lightexp.core.errors import BadInput
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


def test_each_layer_is_given_its_number_of_values_or_passed_over_in_words() -> None:
    assert dict(cluster(k=32).describe_layers(LAYERS)) == {
        "conv1": "Conv2D: left alone, it has no more weights than values",
        "norm1": "BatchNormalization: left alone, it has no kernel",
        "depth1": "DepthwiseConv2D: left alone, depthwise kernels are not clustered",
        "dense1": "Dense (64, 10): 32 values",
    }
    assert cluster(k=32, layers={"conv*": 4}, exclude=["dense1"]).select_sizes(LAYERS) == {"conv1": 4}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"layers": {"conv9": 4}}, "no layer's name matches 'conv9'"),
        ({"layers": {"norm1": 4}}, "'norm1' matches no layer that is clustered. These are: conv1, dense1"),
        ({"layers": {"conv1": 4, "conv*": 8}}, "conv1 is given several numbers of values"),
        ({"k": 640}, "no layer that can be clustered into k=640 values, which must be fewer than its weights"),
    ],
)
def test_what_cannot_be_clustered_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        cluster(**settings).describe_layers(LAYERS)


def test_one_value_is_too_few() -> None:
    with pytest.raises(BadInput, match=r"^c.k: Input should be greater than or equal to 2. Received: 1"):
        construct(Cluster, {"objective": CrossEntropy(), "k": 1}, "c")


def test_what_it_keeps() -> None:
    for kind in ("sparsity", "n_m", "blocks"):
        assert cluster(exclude=["conv1"]).preserves(Invariant(kind, 0.5))
    assert cluster(k=16).preserves(Invariant("codebook", 16))
    assert not cluster(k=16).preserves(Invariant("codebook", 8))
    assert not cluster(k=8, layers={"a": 32}).preserves(Invariant("codebook", 16))
    assert not cluster(k=8, exclude=["conv1"]).preserves(Invariant("codebook", 16))
    assert not cluster().preserves(Invariant("dtype"))
    assert cluster(k=8, layers={"a": 32}).establishes() == (Invariant("codebook", 32),)


def flat(*kernels: Any, scales: int = 0) -> TFLiteGraph:
    tensors = [Tensor("x", (1, 4), "FLOAT32", None)]
    tensors += [Tensor(f"k{i}", k.shape, "FLOAT32", k, (0.5,) * scales) for i, k in enumerate(kernels)]
    ops = tuple(Operator("FULLY_CONNECTED", (0, i + 1), (0,)) for i in range(len(kernels)))
    return TFLiteGraph(tuple(tensors), ops, (0,), (0,))


def test_verify_counts_in_each_channel_and_in_all_where_nothing_scales_the_channels() -> None:
    facts = {"values": {"a": 2}, "sizes": {"a": 12}, "unscaled": {"a": 2}}
    rows = np.array([[0, 1, 1], [1, 0, 0], [0, 1, 0], [1, 1, 1]])  # a flatbuffer's: four outputs
    per_row = rows * np.array([[1], [2], [3], [4]])
    assert cluster().verify("codebook", facts, flat(rows)) is None
    assert cluster().verify("codebook", facts, flat(per_row, scales=4)) is None
    assert cluster().verify("codebook", facts, flat(per_row)) == (
        "a kernel of 12 weights has 5 values in all, was to have 2"
    )
    assert cluster().verify("codebook", facts | {"unscaled": {}}, flat(per_row)) is None
    three = np.array([[0, 1, 2], *rows[1:]])
    assert cluster().verify("codebook", facts, flat(three, scales=4)) == (
        "a kernel of 12 weights has 3 values in a channel, was to have 2"
    )


def test_single_layers_and_exclusions_reach_the_file(tiny_runs: TinyRuns) -> None:
    at = "pipeline.stages.cluster"
    words = ["pipeline=control", "+stage@pipeline.stages.cluster=cluster", "pipeline.order=[train,cluster]"]
    words += ["model=lenet_300_100", f"+{at}.layers.logits=3", f"{at}.k=5", f"{at}.exclude=[dense1]"]
    record = tiny_runs.run(*words)
    values = [len(np.unique(tensor.data)) for _, tensor in tiny_runs.flat(record).kernels]
    assert values[0] > 100
    assert values[1:] == [5, 3]
    assert record.stages[-1].facts["values"] == {"dense2": 5, "logits": 3}


def test_a_tensor_of_fewer_values_is_passed_over_in_words_and_all_of_them_are_refused(tiny_runs: TinyRuns) -> None:
    at = "pipeline.stages.again"
    words = ["pipeline=control", "+stage@pipeline.stages.cluster=cluster", "+stage@pipeline.stages.again=cluster"]
    words += ["pipeline.order=[train,cluster,again]", "model=lenet_300_100", "pipeline.stages.cluster.k=4"]
    words += ["pipeline.waive=[codebook]"]
    record = tiny_runs.run(*words, f"+{at}.layers.logits=2", f"{at}.k=6")
    passed = "4 values already, no more than 6"
    assert record.stages[-1].facts["note"] == f"left as they are: dense1 ({passed}), dense2 ({passed})"
    with pytest.raises(BadInput, match=r"again: k=6: no kernel has more values than it may have"):
        tiny_runs.run(*words, f"{at}.k=6")
