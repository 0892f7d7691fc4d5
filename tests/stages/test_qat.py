"""Tests of quantisation-aware training: schemes, invariants, and the int8 file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightexp.core.errors import BadInput
from lightexp.core.protocols import Invariant
from lightexp.core.tflite_graph import extract_layer_names
from lightexp.objectives.cross_entropy import CrossEntropy
from lightexp.stages.qat import ACTIVATIONS, Qat
from tests.tiny_runs import TinyRuns

KINDS = ["sparsity", "n_m", "blocks", "codebook", "dtype"]


IO_TYPES = {"float": "float32", "integer": "int8", "uint8": "uint8"}


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


def build_net(*layers: Any) -> Any:
    """Build a model of these layers, with a dense layer at its end, and give it weights."""
    from lightexp.backend.session import import_keras

    keras = import_keras()
    kl = keras.layers
    net = keras.Sequential([kl.Input((8, 8, 3)), *layers, kl.Flatten(), kl.Dense(4, name="logits")])
    rng = np.random.default_rng(3)
    net.set_weights([w + rng.normal(scale=0.1, size=w.shape) + 0.1 * (w.ndim == 1) for w in net.get_weights()])
    return net


def make_layers(kind: str) -> list[Any]:
    from lightexp.backend.session import import_keras, reset_graph

    reset_graph(0)
    kl = import_keras().layers
    conv, x = kl.Conv2D(4, 3, name="conv"), "x"
    return {
        "dilated": lambda: [conv, kl.Conv2D(4, 3, dilation_rate=2, activation="relu", name=x)],
        "dilated_norm": lambda: [kl.Conv2D(4, 3, dilation_rate=2, name=x), kl.BatchNormalization(name="norm")],
        "dilated_prelu": lambda: [kl.Conv2D(4, 3, dilation_rate=2, name=x), kl.PReLU(name="prelu")],
        "dilated_depthwise": lambda: [conv, kl.DepthwiseConv2D(3, dilation_rate=2, name=x)],
        "dense_on_map": lambda: [conv, kl.Dense(5, activation="relu", name=x)],
        "dense_on_sequence": lambda: [kl.Reshape((8, 24)), kl.Dense(5, name=x), kl.ReLU()],
        "slope": lambda: [kl.Conv2D(4, 3, name=x), kl.ReLU(negative_slope=0.1, name="slope")],
        "clipped": lambda: [kl.Conv2D(4, 3, name=x), kl.ReLU(max_value=4, name="clipped")],
        "elu": lambda: [conv, kl.Conv2D(4, 3, activation="elu", name=x)],
        "line": lambda: [kl.Reshape((8, 24)), kl.Conv1D(5, 3, activation="relu", name=x)],
        "grouped": lambda: [kl.Conv2D(6, 3, groups=3, activation="relu", name=x)],
        "transposed": lambda: [conv, kl.Conv2DTranspose(4, 3, strides=2, activation="relu", name=x)],
    }[kind]()


INT8, LEFT = "int8 weights and activations", "float32, 8-bit training does not know "
PLANNED: dict[str, dict[str, str]] = {
    "dilated": {"conv": INT8, "x": f"{LEFT}Conv2D with dilation_rate=(2, 2)"},
    "dilated_norm": {
        "x": f"{LEFT}Conv2D with dilation_rate=(2, 2)",
        "norm": f"{LEFT}BatchNormalization with no 8-bit convolution of its own before it",
    },
    "dilated_prelu": {"x": f"{LEFT}Conv2D with dilation_rate=(2, 2)", "prelu": f"{LEFT}PReLU"},
    "dilated_depthwise": {"conv": INT8, "x": f"{LEFT}DepthwiseConv2D with dilation_rate=(2, 2)"},
    "dense_on_map": {"conv": INT8, "x": f"{LEFT}Dense with a bias, on an input of 4 axes"},
    "dense_on_sequence": {"x": f"{LEFT}Dense with a bias, on an input of 3 axes"},
    "slope": {"x": INT8},
    "clipped": {
        "x": f"{LEFT}Conv2D before a ReLU with max_value=4",
        "clipped": f"{LEFT}ReLU with max_value=4",
    },
    "elu": {"conv": INT8, "x": f"{LEFT}Conv2D with elu"},
    "line": {"x": "int8 in the file, but trained in float32: 8-bit training does not know Conv1D"},
    "grouped": {"x": INT8},
    "transposed": {"conv": INT8, "x": INT8},
}


@pytest.mark.parametrize("kind", PLANNED)
def test_file_holds_what_plan_says(tensorflow: None, tmp_path: Path, kind: str) -> None:
    from lightexp.backend import converter, flatbuffer
    from lightexp.backend import qat as backend

    net = build_net(*make_layers(kind))
    planned = dict(qat().describe_model(net, []))
    assert {name: text.partition(": ")[2] for name, text in planned.items()} == {**PLANNED[kind], "logits": INT8}
    simulated, reasons = backend.simulate_int8(net, ACTIVATIONS)
    assert set(reasons) == {name for name, text in planned.items() if "does not know" in text}
    file = tmp_path / "model.tflite"
    file.write_bytes(converter.convert_default(simulated))
    graph = flatbuffer.read_graph(file)
    facts = {"int8_kernels": backend.count_int8_weights(net, reasons, ACTIVATIONS)}
    assert qat().verify("dtype", facts, graph) is None
    types = {tensor.dtype for op, tensor in graph.kernels if "quant_x" in extract_layer_names(graph.title(op, tensor))}
    assert types == {"FLOAT32" if PLANNED[kind]["x"].startswith(LEFT) else "INT8"}
    if reasons and types == {"FLOAT32"}:
        everything = {"int8_kernels": backend.count_int8_weights(net, [], ACTIVATIONS)}
        assert qat().verify("dtype", everything, graph) == "the kernel of 'x' is not INT8, as was planned"


def test_dense_normalization_is_folded_unless_values_are_shared(tensorflow: None) -> None:
    from lightexp.backend.session import import_keras

    kl = import_keras().layers
    net = build_net(kl.Flatten(name="flat"), kl.Dense(5, name="dense"), kl.BatchNormalization(name="norm"), kl.ReLU())
    planned = dict(qat(scheme="prune").describe_model(net, []))
    assert planned["norm"] == "BatchNormalization: folded into the layer before it"
    assert planned["dense"] == f"Dense: {INT8}"
    assert LEFT in dict(qat(scheme="cluster").describe_model(net, []))["norm"]


def test_io_types_give_the_same_numbers(tensorflow: None, tmp_path: Path) -> None:
    from lightexp.backend import converter
    from lightexp.backend import qat as backend
    from lightexp.backend.litert_model import LoadedModel

    samples = np.random.default_rng(0).random((16, 8, 8, 3), np.float32)
    model, _ = backend.simulate_int8(build_net(*make_layers("slope")), ACTIVATIONS)
    backend.find_ranges(model, samples)
    outputs, path = {}, tmp_path / "model.tflite"
    for io in ("float", "integer", "uint8"):
        path.write_bytes(converter.convert_default(model, io))
        loaded = LoadedModel.open(path, samples.shape, threads=1)
        assert np.dtype(loaded.source.dtype).name == np.dtype(loaded.sink.dtype).name == IO_TYPES[io]
        loaded.set_input(loaded.source.encode(samples))
        loaded.invoke()
        outputs[io] = loaded.sink.decode(loaded.get_output())
    assert np.ptp(outputs["float"]) > 0
    assert np.array_equal(outputs["integer"], outputs["float"])
    assert np.array_equal(outputs["uint8"], outputs["float"])
    assert qat(io="int8") == qat(io="integer")


def test_plan_refuses_models_without_8_bit_layers(tensorflow: None) -> None:
    from lightexp.backend.session import import_keras

    kl = import_keras().layers
    net = import_keras().Sequential([kl.Input((8, 3)), kl.Conv1D(4, 3, name="line"), kl.GlobalMaxPooling1D()])
    with pytest.raises(BadInput, match=r"no layer can be trained in 8 bits: \{'line': 'Conv1D'\}"):
        qat().describe_model(net, [])


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
    assert "is not INT8, as was planned" in (qat().verify("dtype", facts, control) or "")


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
