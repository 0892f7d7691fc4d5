"""Tests of parameters, zeros and multiply-accumulates, against counts by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightexp.core.protocols import MeasurementContext
from lightexp.metrics.graph import Graph
from tests.metrics import tiny_models

# (parameters, multiply-accumulates) by hand.
BY_HAND = {
    "dense": (36 * 10 + 10 + 10 * 4 + 4, 36 * 10 + 10 * 4),
    "conv": (
        3 * 3 * 3 * 5 + 5 + 3 * 3 * 5 * 6 + 6 + 96 * 4 + 4,
        4 * 4 * (3 * 3 * 3 * 5) + 4 * 4 * (3 * 3 * 5 * 6) + 96 * 4,  # the transposed convolution has 4x4 inputs
    ),
    "depthwise": (3 * 3 * 6 + 6 + 6 * 4 + 4, 6 * 6 * (3 * 3 * 6) + 6 * 4),
    "dilated": (
        3 * 3 * 3 * 5 + 5 + 3 * 3 * 10 + 10 + 10 * 4 + 4,
        8 * 8 * (3 * 3 * 3 * 5) + 4 * 4 * (3 * 3 * 10) + 10 * 4,
    ),
    "steps": (4 * 7 + 7 + 35 * 4 + 4, 5 * 4 * 7 + 35 * 4),
    "volume": (2 * 2 * 2 * 2 * 3 + 3 + 180 * 4 + 4, 3 * 4 * 5 * (2 * 2 * 2 * 2 * 3) + 180 * 4),
    "matmul": (25 * 4 + 4, 5 * 5 * 4 + 25 * 4),
}
SCHEMES = ("dynamic", "float16", "int8", "int16x8")
QUANTISED = [*(("conv", scheme) for scheme in SCHEMES), ("dense", "int8"), ("depthwise", "int8")]


def measure(path: Path, content: bytes) -> dict[str, float]:
    path.write_bytes(content)
    return {
        metric.name: metric.value
        for metric in Graph().measure(MeasurementContext(path, path, tiny_models.make_data("dense"), 1))
    }


@pytest.mark.parametrize(("net", "scheme"), [(net, "float") for net in BY_HAND] + QUANTISED)
def test_counts_equal_those_by_hand(net: str, scheme: str, tmp_path: Path) -> None:
    values = measure(tmp_path / "m.tflite", tiny_models.make_tflite(net, scheme))
    assert (values["model/params"], values["compute/macs"]) == BY_HAND[net]


def test_fixed_batch_counts_one_example(tmp_path: Path) -> None:
    values = measure(tmp_path / "m.tflite", tiny_models.make_tflite("conv", batch=4))
    assert values["compute/macs"] == BY_HAND["conv"][1]


@pytest.mark.parametrize(
    ("net", "scheme"),
    [("depthwise", "int8"), ("conv", "float"), *(("conv", scheme) for scheme in SCHEMES)],
)
def test_kernel_zeros_are_counted(net: str, scheme: str, tmp_path: Path) -> None:
    # 3 of every 4 values are zero, so that the share of non-zeros is known; rounding may add one or two zeros.
    values = measure(tmp_path / "m.tflite", tiny_models.make_tflite(net, scheme, zeroed=True))
    kernels = [w for w in tiny_models.make_keras(net, zeroed=True).get_weights() if w.ndim > 1]
    zeros, size = sum(int((w == 0).sum()) for w in kernels), sum(w.size for w in kernels)
    assert 0.7 < zeros / size < 0.8
    slack = 0 if scheme in ("float", "float16") else 2
    assert zeros / size <= values["model/sparsity"] <= (zeros + slack) / size
    params = values["model/params"]
    assert params - zeros - slack <= values["model/nonzeros"] <= params - zeros
    if not slack:
        assert values["compute/effective_macs"] == pytest.approx(count_effective_macs(net, kernels), abs=1)
    assert 0.2 < values["compute/effective_macs"] / values["compute/macs"] < 0.3


def count_effective_macs(net: str, kernels: list) -> float:
    positions = {"conv": (16, 16, 1), "depthwise": (36, 1)}[net]
    return float(sum(count * (kernel != 0).sum() for count, kernel in zip(positions, kernels, strict=True)))


def test_dense_model_has_no_sparsity(tmp_path: Path) -> None:
    values = measure(tmp_path / "m.tflite", tiny_models.make_tflite("conv"))
    assert values["model/sparsity"] == 0
    assert values["compute/effective_macs"] == values["compute/macs"]
    assert values["model/nonzeros"] == values["model/params"]
