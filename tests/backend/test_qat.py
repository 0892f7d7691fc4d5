"""Tests of simulated 8-bit arithmetic against the converted file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightexp.core.errors import BadInput
from lightexp.stages.qat import ACTIVATIONS

SHAPE = (8, 8, 1)


def build_net(kind: str) -> Any:
    """Build a model: `known` and `nested` have only layers that 8-bit training supports, the others do not."""
    import tensorflow as tf

    from lightexp.backend.session import import_keras, reset_graph

    reset_graph(0)
    kl, model = import_keras().layers, import_keras().Model
    x = inputs = kl.Input(SHAPE, name="image")
    if kind == "known":
        x = kl.BatchNormalization(name="norm")(kl.Conv2D(4, 3, name="conv")(x))
        x = kl.MaxPooling2D()(kl.ReLU()(x))
        x = kl.Dropout(0.2)(x)
    elif kind == "nested":
        first = import_keras().Sequential(
            [kl.Input(SHAPE), kl.Conv2D(4, 3, name="conv"), kl.BatchNormalization(), kl.ReLU()]
        )
        y = kl.Input((6, 6, 4))
        second = model(y, kl.Add(name="add")([y, kl.Conv2D(4, 3, padding="same", name="conv")(y)]))
        x = second(first(x))
    elif kind == "unknown":
        x = kl.Rescaling(2.0, name="rescaling")(x)
        x = kl.Conv2D(4, 3, activation="elu", name="elu")(x)
        x = kl.BatchNormalization(name="alone")(x)
        x = kl.Conv2D(4, 3, name="conv")(x)
        x = kl.Multiply(name="product")([x, x])
    elif kind == "lambda":
        x = tf.nn.relu6(kl.Conv2D(4, 3, name="conv")(x)) * 0.5
    elif kind == "twice":
        conv = kl.Conv2D(1, 3, padding="same", name="conv")
        x = conv(conv(x))
    x = kl.Dense(9, activation="relu", name="hidden")(kl.Flatten(name="flatten")(x))
    net = model(inputs, kl.Dense(3, name="logits")(x))
    rng = np.random.default_rng(3)
    net.set_weights([np.abs(w + rng.normal(scale=0.1, size=w.shape)) + (w < 0) * 2 * w for w in net.get_weights()])
    return net


INPUTS = np.random.default_rng(0).random((100, *SHAPE)).astype(np.float32)
NOT_SIMULATED: dict[str, set[str]] = {
    "known": set(),
    "nested": set(),
    "unknown": {"rescaling", "elu", "alone", "product"},
    "lambda": {"tf.nn.relu6", "tf.math.multiply", "flatten"},
}


@pytest.mark.parametrize("kind", NOT_SIMULATED)
def test_file_computes_what_was_simulated(tensorflow: None, tmp_path: Path, kind: str) -> None:
    from ai_edge_litert.interpreter import Interpreter  # type: ignore[import-untyped]

    from lightexp.backend import converter, flatbuffer, qat

    model = build_net(kind)
    weights = model.get_weights()
    expected = model.predict(INPUTS, verbose=0)
    simulated, reasons = qat.simulate_int8(model, ACTIVATIONS)
    assert set(reasons) == NOT_SIMULATED[kind]
    qat.find_ranges(simulated, INPUTS)
    outputs = simulated.predict(INPUTS, verbose=0)
    spread = float(expected.max() - expected.min())
    assert np.abs(outputs - expected).max() < 0.2 * spread
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    np.testing.assert_array_equal(model.predict(INPUTS, verbose=0), expected)
    file = tmp_path / "m.tflite"
    file.write_bytes(converter.convert_default(simulated))
    graph = flatbuffer.read_graph(file)
    floats = [tensor.name for _, tensor in graph.kernels if tensor.dtype != "INT8"]
    assert len(floats) == (kind == "unknown")
    interpreter = Interpreter(model_path=str(file))
    [source], [sink] = interpreter.get_input_details(), interpreter.get_output_details()
    assert source["dtype"] == sink["dtype"] == np.float32
    interpreter.resize_tensor_input(source["index"], INPUTS.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(source["index"], INPUTS)
    interpreter.invoke()
    assert np.abs(interpreter.get_tensor(sink["index"]) - outputs).max() < 0.02 * spread


def test_list_kernels_returns_trained_variables(tensorflow: None) -> None:
    from lightexp.backend import qat

    simulated, _ = qat.simulate_int8(build_net("unknown"), ACTIVATIONS)
    simulated(INPUTS, training=True)  # replaces each layer's kernel by a quantised tensor
    kernels = qat.list_kernels(simulated)
    assert [kernel.name for kernel in kernels] == [f"{n}/kernel:0" for n in ("elu", "conv", "hidden", "logits")]
    assert {id(kernel) for kernel in kernels} <= {id(variable) for variable in simulated.trainable_variables}


def test_find_ranges_changes_only_ranges(tensorflow: None) -> None:
    from lightexp.backend import qat

    simulated, _ = qat.simulate_int8(build_net("known"), ACTIVATIONS)
    before = {v.name: v.numpy() for v in simulated.weights}
    qat.find_ranges(simulated, INPUTS)
    moved = {v.name for v in simulated.weights if not np.array_equal(v.numpy(), before[v.name])}
    assert {name.split("_")[-1] for name in moved} == {"min:0", "max:0"}
    assert not any("moving" in name or "kernel" in name for name in moved)
    logits = simulated(INPUTS, training=True).numpy()
    ranges = {v.name: float(v) for v in simulated.weights if v.name in moved}
    assert ranges["quant_logits/post_activation_max:0"] == pytest.approx(logits.max(), rel=0.2)
    assert ranges["quantize_layer/quantize_layer_max:0"] == pytest.approx(1, abs=0.01)


def test_models_without_8_bit_layers_are_refused(tensorflow: None) -> None:
    from lightexp.backend import qat
    from lightexp.backend.session import import_keras

    with pytest.raises(BadInput, match="conv is used more than once"):
        qat.simulate_int8(build_net("twice"), ACTIVATIONS)
    kl = import_keras().layers
    inputs = kl.Input((8, 1))
    convolution = import_keras().Model(inputs, kl.GlobalMaxPooling1D()(kl.Conv1D(3, 3, name="c")(inputs)))
    with pytest.raises(BadInput, match=r"no layer can be trained in 8 bits: .*'c': 'Conv1D'"):
        qat.simulate_int8(convolution, ACTIVATIONS)
