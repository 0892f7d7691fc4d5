from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightexp.backend.finite_weights import MAX_WEIGHT, find_broken_constant, find_broken_weight
from lightexp.core.artifact import WEIGHTS
from lightexp.core.tflite_graph import Operator, Tensor, TFLiteGraph


def make_graph(kernel: float = 1, bias: float = 1, padding: float = 1, scale: float = 1) -> TFLiteGraph:
    """Return a padding and a convolution; each constant holds one given value, and zeros."""

    def make_constant(name: str, value: float, size: int) -> Tensor:
        data = np.zeros(size, np.float32)
        data[0] = value
        return Tensor(name, (size,), "FLOAT32", data)

    constants = make_constant("kernel", kernel, 9), make_constant("bias", bias, 3), make_constant("padding", padding, 1)
    padded, result = (Tensor(name, (1, 8), "INT8", None, (scale,), (0,)) for name in ("padded", "result"))
    tensors = (Tensor("x", (1, 4), "FLOAT32", None), *constants, padded, result)
    ops = Operator("PADV2", (0, -1, 3), (4,)), Operator("CONV_2D", (4, 1, 2), (5,))
    return TFLiteGraph(tensors, ops, (0,), (5,))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 10 * MAX_WEIGHT])
@pytest.mark.parametrize(("place", "name"), [("kernel", "kernel"), ("bias", "bias"), ("scale", "padded")])
def test_operand_is_found(place: str, name: str, value: float) -> None:
    changed: dict[str, Any] = {place: value}
    assert find_broken_constant(make_graph(**changed)) == name


@pytest.mark.parametrize("value", [-np.inf, np.finfo(np.float32).min])
def test_padding_may_be_infinite(value: float) -> None:
    assert find_broken_constant(make_graph(padding=value)) is None
    assert find_broken_constant(make_graph(padding=np.nan)) == "padding"


def test_keras_weights_are_read_too(tmp_path: Path) -> None:
    np.savez(tmp_path / WEIGHTS, w0000=np.ones(3), w0001=np.array([1, np.inf]), steps=np.array(2))
    assert find_broken_weight(tmp_path) == f"'w0001' in its {WEIGHTS}"
    np.savez(tmp_path / WEIGHTS, w0000=np.ones(3), steps=np.array(2))
    assert find_broken_weight(tmp_path) is None
