"""Tests of what to change about a file for a microcontroller, on graphs without files."""

from __future__ import annotations

import dataclasses

import pytest

from lightexp.core.tflite_graph import Operator, Tensor, TFLiteGraph
from lightexp.metrics.board_advice import advise_flash, advise_io, advise_ram, explain_refusal
from tests.core.test_memory_plan import KERNEL, make_graph

REFUSED = "a == kInt8 || b was not true; Node FULLY_CONNECTED (number 1) failed to prepare with status 1"


def replace_tensor(graph: TFLiteGraph, place: int, **changes: object) -> TFLiteGraph:
    tensors = [dataclasses.replace(t, **changes) if i == place else t for i, t in enumerate(graph.tensors)]  # type: ignore[arg-type]
    return dataclasses.replace(graph, tensors=tuple(tensors))


def test_explain_refusal_names_the_layer_and_its_setting() -> None:
    assert explain_refusal(REFUSED, replace_tensor(make_graph(), 2, dtype="INT4")) == (
        "TFLite Micro refuses layer 'dense' (FULLY_CONNECTED): it takes no INT4 weights with INT8 inputs. "
        "layers={dense: 8} of the stage that quantises keeps it at 8 bits"
    )
    hybrid = explain_refusal(REFUSED, replace_tensor(make_graph(), 1, dtype="FLOAT32"))
    assert hybrid.endswith(". It needs 8-bit weights with 8-bit activations: quantize.scheme=int8")


@pytest.mark.parametrize("message", ["no such operator", REFUSED.replace("number 1", "number 9")])
def test_explain_refusal_keeps_other_messages(message: str) -> None:
    assert explain_refusal(message, make_graph()) == message


def test_advise_io_says_what_is_worth_it() -> None:
    assert advise_io(make_graph(), 1000) is None
    large = replace_tensor(make_graph(), 0, shape=(1, 1000))
    assert advise_io(large, 5000) == (
        "inputs and outputs are float: io=integer of the stage that quantises would save 3.89 KiB of RAM"
    )
    assert advise_io(large, 50_000) is None  # little of all


def test_advise_ram_gives_the_nearest_setting() -> None:
    graph = make_graph()
    assert advise_ram(graph, 300, 100) == "io=integer of the stage that quantises saves 384 B, which is enough"
    assert advise_ram(graph, 3000, 2048).endswith(
        "saves 384 B of 2 KiB that are missing; most is TFLite Micro's own data of 3 operators: take fewer layers"
    )
    integer = dataclasses.replace(graph, ops=graph.ops[1:2], inputs=(1,), outputs=(3,))
    assert advise_ram(integer, 200, 1) == "most is alive at layer 'dense' (128 B): narrow it (prune_channels)"
    in_float = TFLiteGraph((graph.tensors[0], graph.tensors[4]), (Operator("TANH", (0,), (1,)),), (0,), (1,))
    assert advise_ram(in_float, 900, 1) == "quantize.scheme=int8 with io=integer takes about a quarter"


def test_advise_flash_names_the_layer_with_most_weights() -> None:
    assert advise_flash(make_graph()) == (
        "layer 'dense' has most weights (INT8): narrow it (prune_channels, factorize)"
    )
    in_float = replace_tensor(make_graph(), 2, dtype="FLOAT32", scales=())
    assert advise_flash(in_float) == "quantize stores its weights in a quarter"
    no_layer = TFLiteGraph((Tensor("a", (1,), "INT8", KERNEL.data, (1.0,)),), (), (0,), (0,))
    assert advise_flash(no_layer) == "it has no layer to narrow"
