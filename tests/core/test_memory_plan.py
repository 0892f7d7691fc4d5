"""Tests of the RAM at each operator; `tests/metrics/test_micro.py` compares it with the embedded interpreter's."""

from __future__ import annotations

import numpy as np

from lightexp.core.memory_plan import find_peak, plan_memory, use_integer_io
from lightexp.core.tflite_graph import Operator, Tensor, TFLiteGraph

KERNEL = Tensor("net/dense/MatMul", (4, 100), "INT8", np.ones((4, 100), np.int8), (1.0,), (0,))


def make_graph(branch: bool = False) -> TFLiteGraph:
    """Return a graph of float input, int8 dense layer and float output; with a branch, the input is read at the end."""
    tensors = (
        Tensor("input", (1, 100), "FLOAT32", None),
        Tensor("net/input/quantized", (1, 100), "INT8", None, (1.0,), (0,)),
        KERNEL,
        Tensor("net/dense/BiasAdd", (1, 4), "INT8", None, (1.0,), (0,)),
        Tensor("output", (1, 4), "FLOAT32", None),
    )
    ops = (
        Operator("QUANTIZE", (0,), (1,)),
        Operator("FULLY_CONNECTED", (1, 2, -1), (3,)),
        Operator("DEQUANTIZE", (3, 0) if branch else (3,), (4,)),
    )
    return TFLiteGraph(tensors, ops, (0,), (4,))


def test_plan_memory_counts_tensors_that_are_alive() -> None:
    rows = plan_memory(make_graph())
    assert [row.size for row in rows] == [400 + 112, 112 + 16, 16 + 16]
    assert [row.layer for row in rows] == ["input", "dense", "DEQUANTIZE"]
    assert rows[0].tensors == (("input", 400), ("net/input/quantized", 112))
    assert find_peak(rows) is rows[0]


def test_input_stays_alive_until_its_last_reader() -> None:
    assert [row.size for row in plan_memory(make_graph(branch=True))] == [512, 400 + 128, 400 + 32]


def test_outputs_stay_alive_to_the_end() -> None:
    graph = make_graph()
    graph = TFLiteGraph(graph.tensors, graph.ops, graph.inputs, (1, 4))
    assert [row.size for row in plan_memory(graph)] == [512, 128, 112 + 32]


def test_use_integer_io_removes_the_conversions() -> None:
    graph = use_integer_io(make_graph())
    assert ([op.kind for op in graph.ops], graph.inputs, graph.outputs) == (["FULLY_CONNECTED"], (1,), (3,))
    assert [row.size for row in plan_memory(graph)] == [128]


def test_use_integer_io_leaves_a_float_input_that_is_read_twice() -> None:
    graph = make_graph(branch=True)
    assert use_integer_io(graph) is graph


def test_graph_without_operators_has_no_peak() -> None:
    graph = TFLiteGraph(make_graph().tensors, (), (0,), (0,))
    assert find_peak(plan_memory(graph)) is None
