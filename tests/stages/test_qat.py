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
def test_auto_takes_the_least_that_keeps_what_stands(kinds: list[str]) -> None:
    standing = tuple(Invariant(kind, 0.5) for kind in kinds)
    chosen = qat().resolve(standing)
    zeros, codebook = bool({"sparsity", "n_m", "blocks"} & set(kinds)), "codebook" in kinds
    expected = {(0, 0): "plain", (1, 0): "prune", (0, 1): "cluster", (1, 1): "prune_cluster"}[zeros, codebook]
    assert chosen.scheme == expected
    assert all(chosen.preserves(invariant) for invariant in standing if invariant.kind != "dtype")
    assert qat().preserves(Invariant("n_m", 0.5))
    assert not qat(scheme="plain").preserves(Invariant("sparsity", 0.5))
    assert qat(scheme="plain").resolve(standing).scheme == "plain"


def test_the_plan_says_which_layers_are_trained_in_8_bits() -> None:
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


WORDS = ["pipeline=prune", "+stage@pipeline.stages.qat=qat", "pipeline.order=[train,prune,qat]"]


def test_plain_training_after_pruning_is_refused_and_where_waived_it_does_the_damage(tiny_runs: TinyRuns) -> None:
    plain = [*WORDS, "pipeline.stages.qat.scheme=plain"]
    with pytest.raises(BadInput, match=r"'qat' after 'prune' would undo its sparsity.*pipeline.waive=\[sparsity\]"):
        tiny_runs.run(*plain)
    record = tiny_runs.run(*plain, "pipeline.waive=[sparsity]")
    assert "has sparsity" in record.waived["sparsity"]
    assert record.metrics["model/sparsity"] < 0.6
    kept = tiny_runs.run(*WORDS)
    assert kept.metrics["model/sparsity"] == pytest.approx(0.8, abs=0.02)
    assert not kept.waived


def test_auto_is_the_scheme_it_chooses(tiny_runs: TinyRuns) -> None:
    chosen = tiny_runs.plan(*WORDS)[0].nodes[-1]
    named = tiny_runs.plan(*WORDS, "pipeline.stages.qat.scheme=prune")[0].nodes[-1]
    both = tiny_runs.plan(*WORDS, "pipeline.stages.qat.scheme=prune_cluster")[0].nodes[-1]
    assert chosen.key == named.key != both.key


def test_the_file_is_int8_and_says_how_near_it_is_to_what_was_trained(tiny_runs: TinyRuns) -> None:
    record = tiny_runs.run(*WORDS)
    facts = record.stages[-1].facts
    flat = tiny_runs.flat(record)
    assert {tensor.dtype for _, tensor in flat.kernels} == {"INT8"}
    assert facts["val_accuracy"]["file"] == pytest.approx(record.metrics["accuracy/val"])
    assert ("note" in facts) == (abs(facts["val_accuracy"]["file"] - facts["val_accuracy"]["simulated"]) > 0.005)
    assert qat().verify("dtype", facts, flat) is None
    control = tiny_runs.flat(tiny_runs.run("pipeline=control"))
    assert "kernel '" in (qat().verify("dtype", facts, control) or "")


def test_it_may_take_and_give_integers(tiny_runs: TinyRuns) -> None:
    either, integer = (tiny_runs.run(*WORDS, *io) for io in ([], ["pipeline.stages.qat.io=integer"]))
    flat = tiny_runs.flat(integer)
    assert {flat.tensors[i].dtype for i in (*flat.inputs, *flat.outputs)} == {"INT8"}
    assert integer.metrics["accuracy/val"] == pytest.approx(either.metrics["accuracy/val"], abs=0.03)
    facts = integer.stages[-1].facts
    assert qat(io="integer").verify("dtype", facts, flat) is None
    assert qat().verify("dtype", facts, flat) == "inputs and outputs are ['INT8'], were to be FLOAT32"


@pytest.mark.parametrize("objective", ["hint", "attention"])
def test_a_teacher_s_layers_guide_it_too(tiny_runs: TinyRuns, objective: str) -> None:
    at = "pipeline.stages.qat.objective"
    words = ["pipeline=control", "+stage@pipeline.stages.qat=qat", "pipeline.order=[train,qat]"]
    loss = [
        tiny_runs.run(*words, f"objective@{at}={name}").stages[-1].facts["history"]["loss"]
        for name in (objective, "distill")
    ]
    assert loss[0] != loss[1]
