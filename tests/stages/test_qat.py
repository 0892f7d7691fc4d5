"""Tests of quantisation-aware training: schemes, invariants, and the int8 file."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightexp.core.errors import BadInput
from lightexp.core.protocols import Invariant, Layer
from lightexp.objectives.cross_entropy import CrossEntropy
from lightexp.stages.qat import Qat
from tests.tiny_runs import TinyRuns

KINDS = ["sparsity", "n_m", "blocks", "codebook", "dtype"]


def qat(**settings: Any) -> Qat:
    return Qat(objective=CrossEntropy(), **settings)


@given(st.lists(st.sampled_from(KINDS), max_size=4))
def test_resolve_auto_preserves_earlier_invariants(kinds: list[str]) -> None:
    standing = tuple(Invariant(kind, 0.5) for kind in kinds)
    stage = qat().resolve(standing)
    zeros, codebook = bool({"sparsity", "n_m", "blocks"} & set(kinds)), "codebook" in kinds
    expected = {(0, 0): "plain", (1, 0): "prune", (0, 1): "cluster", (1, 1): "prune_cluster"}[zeros, codebook]
    assert stage.scheme == expected
    assert all(stage.preserves(invariant) for invariant in standing if invariant.kind != "dtype")
    assert qat().preserves(Invariant("n_m", 0.5))
    assert not qat(scheme="plain").preserves(Invariant("sparsity", 0.5))
    assert qat(scheme="plain").resolve(standing).scheme == "plain"


def test_describe_layers_gives_data_types() -> None:
    layers = [
        Layer("conv1", "Conv2D", (3, 3, 1, 8), 80, "relu"),
        Layer("conv2", "Conv2D", (3, 3, 1, 8), 80, "elu"),
        Layer("norm1", "BatchNormalization", None, 32),
        Layer("line", "Conv1D", (3, 8, 8), 192, "linear"),
    ]
    assert dict(qat().describe_layers(layers)) == {
        "conv1": "Conv2D: int8 weights and activations",
        "conv2": "Conv2D: not trained in 8 bits, which tfmot does not know with elu",
        "norm1": "BatchNormalization: folded into a convolution before it; else not trained in 8 bits",
        "line": "Conv1D: not trained in 8 bits, which tfmot does not know for it",
    }


OVERRIDES = ["pipeline=prune", "+stage@pipeline.stages.qat=qat", "pipeline.order=[train,prune,qat]"]


def test_plain_scheme_after_pruning_must_be_waived(tiny_runs: TinyRuns) -> None:
    plain = [*OVERRIDES, "pipeline.stages.qat.scheme=plain"]
    with pytest.raises(BadInput, match=r"'qat' after 'prune' would undo its sparsity.*pipeline.waive=\[sparsity\]"):
        tiny_runs.run(*plain)
    record = tiny_runs.run(*plain, "pipeline.waive=[sparsity]")
    assert "has sparsity" in record.waived["sparsity"]
    assert record.metrics["model/sparsity"] < 0.6
    preserved = tiny_runs.run(*OVERRIDES)
    assert preserved.metrics["model/sparsity"] == pytest.approx(0.8, abs=0.02)
    assert not preserved.waived


def test_auto_has_key_of_resolved_scheme(tiny_runs: TinyRuns) -> None:
    automatic = tiny_runs.plan(*OVERRIDES)[0].nodes[-1]
    named = tiny_runs.plan(*OVERRIDES, "pipeline.stages.qat.scheme=prune")[0].nodes[-1]
    both = tiny_runs.plan(*OVERRIDES, "pipeline.stages.qat.scheme=prune_cluster")[0].nodes[-1]
    assert automatic.key == named.key != both.key


def test_file_is_int8_with_accuracy_of_training(tiny_runs: TinyRuns) -> None:
    record = tiny_runs.run(*OVERRIDES)
    facts = record.stages[-1].facts
    graph = tiny_runs.read_graph(record)
    assert {tensor.dtype for _, tensor in graph.kernels} == {"INT8"}
    assert facts["val_accuracy"]["file"] == pytest.approx(record.metrics["accuracy/val"])
    assert ("note" in facts) == (abs(facts["val_accuracy"]["file"] - facts["val_accuracy"]["simulated"]) > 0.005)
    assert qat().verify("dtype", facts, graph) is None
    control = tiny_runs.read_graph(tiny_runs.run("pipeline=control"))
    assert "kernel '" in (qat().verify("dtype", facts, control) or "")


def test_integer_io(tiny_runs: TinyRuns) -> None:
    float_io, integer_io = (
        tiny_runs.run(*OVERRIDES, *overrides) for overrides in ([], ["pipeline.stages.qat.io=integer"])
    )
    graph = tiny_runs.read_graph(integer_io)
    assert {graph.tensors[i].dtype for i in (*graph.inputs, *graph.outputs)} == {"INT8"}
    assert integer_io.metrics["accuracy/val"] == pytest.approx(float_io.metrics["accuracy/val"], abs=0.03)
    facts = integer_io.stages[-1].facts
    assert qat(io="integer").verify("dtype", facts, graph) is None
    assert qat().verify("dtype", facts, graph) == "inputs and outputs are ['INT8'], were to be FLOAT32"


@pytest.mark.parametrize("objective", ["hint", "attention"])
def test_objectives_with_hidden_layers_change_training(tiny_runs: TinyRuns, objective: str) -> None:
    at = "pipeline.stages.qat.objective"
    overrides = ["pipeline=control", "+stage@pipeline.stages.qat=qat", "pipeline.order=[train,qat]"]
    loss = [
        tiny_runs.run(*overrides, f"objective@{at}={name}").stages[-1].facts["history"]["loss"]
        for name in (objective, "distill")
    ]
    assert loss[0] != loss[1]
