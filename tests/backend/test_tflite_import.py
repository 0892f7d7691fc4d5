"""Tests of float `.tflite` files that are rebuilt as Keras models: their outputs, names and refusals."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightexp.backend import tflite_import
from lightexp.backend.tflite_layers.layer_graph import make_layer_name
from lightexp.core.data import Data, Split

FILES = Path(__file__).parent / "tflite_files"
SHAPE, CLASSES = (8, 8, 2), 4


def make_data(shape: tuple[int, ...] = SHAPE, classes: int = CLASSES) -> Data:
    """Return 16 examples of noise."""
    x = np.random.default_rng(0).normal(size=(16, *shape)).astype(np.float32)
    split = Split(x, np.arange(16, dtype=np.int32) % classes)
    return Data("noise", split, split, split, classes, 1.0, 0.0)


def rebuild(path: Path, shape: tuple[int, ...] = SHAPE, classes: int = CLASSES) -> Any:
    """Return the rebuilt model after a comparison with its file."""
    model = tflite_import.load_model(path, shape, classes)
    assert tflite_import.compare_outputs(model, path, make_data(shape, classes)) < 1e-5
    return model


def list_kinds(model: Any) -> list[str]:
    return [type(layer).__name__ for layer in model.layers]


@pytest.fixture
def convert(tensorflow: None, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that converts a function of `(batch, *shape)` to a `.tflite`."""
    import tensorflow as tf

    def write(function: Callable[[Any], Any], shape: tuple[int, ...] = SHAPE, batch: int | None = None) -> Path:
        concrete = tf.function(function).get_concrete_function(tf.TensorSpec((batch, *shape), name="x"))
        converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], concrete)
        path = tmp_path / "net.tflite"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            path.write_bytes(converter.convert())
        return path

    return write


def make_weights(*shape: int, seed: int = 0) -> Any:
    import tensorflow as tf

    return tf.constant(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def end(x: Any) -> Any:
    """Return `(batch, CLASSES)` of any value."""
    import tensorflow as tf

    flat = tf.reshape(x, (-1, int(np.prod(x.shape[1:]))))
    return flat @ make_weights(flat.shape[-1], CLASSES, seed=9)


@pytest.mark.parametrize("name", ["residual", "depthwise", "mlp"])
@pytest.mark.parametrize("converter", ["litert_torch", "onnx2tf"])
def test_files_of_pytorch_converters(tensorflow: None, converter: str, name: str) -> None:
    kinds = list_kinds(rebuild(FILES / f"{converter}_{name}.tflite"))
    assert not {"Permute", "TFOpLambda"} & set(kinds)
    expected = {"residual": ["Conv2D"] * 6 + ["Dense"], "mlp": ["Dense"] * 3}
    depthwise = ["Conv2D", "DepthwiseConv2D", "Conv2D", "Conv2D", "Dense"]
    assert [kind for kind in kinds if "Conv" in kind or kind == "Dense"] == expected.get(name, depthwise)


def test_layer_names_are_those_of_pytorch(tensorflow: None) -> None:
    model = rebuild(FILES / "litert_torch_residual.tflite")
    names = [layer.name for layer in model.layers if layer.weights]
    assert names[:-1] == ["stem", "a_conv1", "a_conv2", "b_conv1", "b_conv2", "b_short_0"]
    assert [layer.name for layer in rebuild(FILES / "litert_torch_mlp.tflite").layers if layer.weights] == [
        "net_1",
        "net_3",
        "net_5",
    ]


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("model/conv1/Relu;model/conv1/BiasAdd;model/conv1/Conv2D", "conv1"),
        ("model/head/MatMul", "head"),
        ("model_1/tf.linalg.matmul_1/MatMul;model_1/tf.__operators__.add/AddV2;Const_3", "tf_linalg_matmul_1"),
        ("__main__.Net/a.Sequential_layer1/b.BasicBlock_0/torch.nn.modules.conv.Conv2d_conv1;2", "layer1_0_conv1"),
        ("Net/torch.nn.modules.batchnorm.BatchNorm2d_bn;Net/torch.nn.modules.conv.Conv2d_c;1", "c"),
        ("StatefulPartitionedCall:0", "StatefulPartitionedCall_0"),
        ("", "layer"),
        (";/;;", "layer"),
        ("net/\u00e9\x1b[2J/x", "2J"),
        ("x" * 500, "x" * 80),
    ],
)
def test_make_layer_name(title: str, name: str) -> None:
    assert make_layer_name(title) == name


def test_layer_names_are_those_of_keras(tensorflow: None, tmp_path: Path) -> None:
    import tf_keras as keras

    from lightexp.backend import converter

    kl = keras.layers
    slopes = kl.PReLU("random_normal", shared_axes=[1, 2], name="slopes")
    body = [kl.Conv2D(3, 3, name="edges"), kl.BatchNormalization(), slopes, kl.Flatten(), kl.Dense(4, name="head")]
    model = keras.Sequential([kl.Input(SHAPE), *body])
    path = tmp_path / "net.tflite"
    path.write_bytes(converter.convert_to_float32(model))
    assert [layer.name for layer in rebuild(path).layers if layer.weights] == ["edges", "slopes_prelu", "head"]


def make_convolutions(x: Any) -> Any:
    import tensorflow as tf

    x = tf.nn.relu(tf.nn.conv2d(x, make_weights(3, 3, 2, 4), 1, "SAME", dilations=2) + make_weights(4))
    x = tf.nn.relu6(tf.nn.depthwise_conv2d(x, make_weights(3, 3, 4, 2), (1, 1, 1, 1), "SAME"))
    x = tf.nn.conv2d(x, make_weights(3, 3, 4, 6), 2, "VALID")  # in two groups
    x = tf.nn.conv2d_transpose(x, make_weights(3, 3, 5, 6), (1, 6, 6, 5), 2, "SAME")
    return end(tf.nn.tanh(tf.nn.conv2d_transpose(x, make_weights(2, 2, 3, 5), (1, 13, 13, 3), 2, "VALID")))


def make_activations(x: Any) -> Any:
    import tensorflow as tf

    parts = [
        tf.nn.relu(x),
        tf.nn.relu6(3 * x),
        tf.nn.leaky_relu(x, 0.3),
        tf.nn.elu(x),
        tf.nn.sigmoid(x),
        tf.nn.tanh(x),
        x * tf.nn.relu6(x + 3) / 6,
        tf.nn.gelu(2 * x, approximate=True),
        tf.nn.gelu(x, approximate=False),
        tf.nn.softmax(x),
        tf.nn.log_softmax(x),
        tf.abs(x),
        tf.exp(-tf.square(x)),
        tf.math.rsqrt(tf.sqrt(tf.abs(x)) + 1),
    ]
    return end(tf.concat(parts, -1))


def make_arithmetic(x: Any) -> Any:
    import tensorflow as tf

    gate = tf.reduce_mean(x, (1, 2), keepdims=True)
    column = make_weights(8, 1, 1)
    parts = [
        x + make_weights(2),
        2 - x,
        x * column,
        x / 3,
        1 / (tf.abs(x) + 1),
        tf.maximum(x, 0.5),
        tf.minimum(x, x[..., :1]),
    ]
    parts += [x * gate, x - gate, x / (tf.abs(gate) + 1), x + tf.nn.relu(x)]
    joined = tf.concat(parts, -1)
    sums = [tf.reduce_sum(joined, 3), tf.reduce_mean(joined, 1), tf.reduce_max(joined, 2)]
    return end(tf.concat([end(part) for part in [*sums, tf.reduce_max(joined, (1, 2))]], -1))


def make_movements(x: Any) -> Any:
    import tensorflow as tf

    padded = tf.pad(x, ((0, 0), (1, 2), (0, 1), (0, 0)))
    parts = [
        padded[:, 1:6, 2:9],
        tf.pad(x, ((0, 0), (0, 0), (0, 0), (1, 2)), constant_values=2.0)[:, ::2, :, 1:],
        tf.pad(x, ((0, 0), (2, 1), (0, 0), (0, 0)), mode="REFLECT"),
        x[:, 3],
        tf.split(x, 2, axis=1)[1],
        tf.transpose(x, (0, 2, 3, 1)),
        tf.squeeze(tf.expand_dims(x, 1), 1),
        tf.image.resize(x, (16, 24)),
        tf.image.resize(x, (5, 3)),
        tf.image.resize(x, (16, 8), method="nearest"),
        tf.compat.v1.image.resize_bilinear(x, (5, 9), align_corners=True),
        tf.nn.max_pool2d(x, 3, 2, "SAME"),
        tf.nn.avg_pool2d(x, (2, 3), (2, 1), "VALID"),
    ]
    return end(tf.concat([end(part) for part in parts], -1))


def make_matrices(x: Any) -> Any:
    import tensorflow as tf

    steps = tf.reshape(x, (-1, 16, 8))
    steps = tf.nn.relu(tf.tensordot(steps, make_weights(8, 5), 1) + make_weights(5))  # rows of all examples at once
    flat = tf.reshape(steps, (tf.shape(steps)[0], 80))
    return tf.nn.softmax(end(flat))


@pytest.mark.parametrize(
    "make",
    [make_convolutions, make_activations, make_arithmetic, make_movements, make_matrices],
    ids=lambda f: f.__name__,
)
def test_operators(make: Callable[[Any], Any], convert: Callable[..., Path]) -> None:
    batch = 1 if make is make_convolutions else None
    rebuild(convert(make, batch=batch))


def make_channels_first(x: Any) -> Any:
    import tensorflow as tf

    x = tf.concat([x * make_weights(2, 1, 1), x - make_weights(1, 1, 8), tf.nn.softmax(x)], 1)
    x = tf.pad(x, ((0, 0), (0, 0), (1, 0), (0, 2)))[:, 1:, :8]
    x = tf.maximum(x, make_weights(5, 1, 10) * x) + tf.reduce_mean(x, (2, 3), keepdims=True)
    kernel = make_weights(3, 3, 5, 6)
    x = tf.transpose(tf.nn.conv2d(tf.transpose(x, (0, 2, 3, 1)), kernel, 1, "VALID"), (0, 3, 1, 2))
    parts = [tf.split(x, 2, axis=1)[1], tf.reduce_sum(x, 1), tf.reduce_max(x, (2, 3)), tf.nn.relu(x)]
    return end(tf.concat([end(part) for part in parts], -1))


def test_channels_first(convert: Callable[..., Path]) -> None:
    kinds = list_kinds(rebuild(convert(make_channels_first, (2, 8, 8))))
    assert "Conv2D" in kinds


@pytest.mark.parametrize("rectifies", [True, False])
def test_max_pooling_behind_a_padding_of_minus_infinity(rectifies: bool, convert: Callable[..., Path]) -> None:
    """As PyTorch pools; behind a rectifier zeros do as well, and keep the range of integers small."""
    import tensorflow as tf

    def pool(x: Any) -> Any:
        x = tf.nn.relu(x) if rectifies else x
        padded = tf.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
        return end(tf.nn.max_pool2d(padded, 3, 2, "VALID"))

    kinds = list_kinds(rebuild(convert(pool)))
    assert ("ZeroPadding2D" in kinds) == rectifies
