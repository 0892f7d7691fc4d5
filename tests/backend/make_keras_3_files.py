"""Make `keras_3_files.zip`: small models saved by Keras 3, with its outputs. Run it in a process without tf_keras.

    python tests/backend/make_keras_3_files.py

A file needs to be made again only to add a model: later versions of Keras must read those of earlier ones.
"""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
from keras import layers, ops

EXAMPLES = 16


def build_nested() -> Any:
    """Build a model with a frozen model inside, a shared layer, operators, augmentation, and inputs of any size."""
    inputs = layers.Input((None, None, 3))
    x = layers.Rescaling(0.5, offset=-1)(layers.RandomFlip("horizontal")(inputs))
    x = layers.Conv2D(4, 3, padding="same", kernel_regularizer="l2")(x)
    x = ops.relu(x * 2.0 + layers.Conv2D(4, 1)(x))
    shared = layers.Conv2D(4, 1, name="shared")
    x = shared(shared(x))
    inner = [layers.Input((None, None, 4)), layers.DepthwiseConv2D(3), layers.BatchNormalization(), layers.ReLU(6.0)]
    base = keras.Sequential(inner, name="base")
    base.trainable = False
    x = layers.GlobalAveragePooling2D()(base(x, training=False))
    return keras.Model(inputs, layers.Dense(3, activation="softmax")(ops.reshape(x, (-1, 4))))


def build_operations() -> Any:
    """Build a model with operations of every sort."""
    inputs = layers.Input((8, 8, 4))
    x = inputs[:, 1:, ..., ::2]
    x = ops.concatenate([ops.mean(x, axis=(1, 2)), x[:, 0, 0]], axis=-1)
    x = (1.0 - x) / 2 + ops.clip(x, 0, 1) - np.array([1.0, 2.0, 3.0, 4.0], "float32")
    x = ops.squeeze(-ops.expand_dims(x, 1), 1)
    x = ops.transpose(ops.reshape(x, (-1, 2, 2)), (0, 2, 1)) ** 2
    x = layers.Dense(3, activation=layers.LeakyReLU(0.1))(x)
    x = layers.Dense(3, activation=ops.relu)(x)
    x = ops.pad(x, ((0, 0), (1, 1), (0, 0)))
    x = ops.abs(ops.softmax(ops.leaky_relu(layers.Add()([x, x]), 0.3), axis=-1))
    x = layers.Flatten()(x)
    x = layers.Dense(3, activation="hard_silu")(x - ops.max(x, axis=-1, keepdims=True))
    return keras.Model(inputs, layers.Dense(3)(layers.Activation("hard_sigmoid")(x)))


def build_layers() -> Any:
    """Build a model with many kinds of layers, among them one that is adapted to data."""
    normalization = layers.Normalization()
    normalization.adapt(np.random.default_rng(1).random((20, 8, 8, 3)))
    return keras.Sequential(
        [
            layers.Input((8, 8, 3)),
            normalization,
            layers.SeparableConv2D(4, 3),
            layers.PReLU(shared_axes=[1, 2]),
            layers.LeakyReLU(0.2),
            layers.LayerNormalization(),
            layers.GroupNormalization(2),
            layers.Conv2DTranspose(4, 3),
            layers.UpSampling2D(2),
            layers.Conv2D(4, 3, dilation_rate=2, groups=2),
            layers.ELU(),
            layers.Dropout(0.2),
            layers.GlobalMaxPooling2D(),
            layers.Dense(3),
        ]
    )


def build_series() -> Any:
    """Build a model of series in mixed precision that got its input shape by a call."""
    keras.mixed_precision.set_global_policy("mixed_float16")
    model = keras.Sequential(
        [
            layers.Conv1D(4, 3, activation="gelu"),
            layers.BatchNormalization(),
            layers.MaxPooling1D(),
            layers.Flatten(),
            layers.Dense(3, dtype="float32"),
        ]
    )
    model(np.zeros((2, 16, 2), "float32"))
    keras.mixed_precision.set_global_policy("float32")
    return model


def build_recurrent() -> Any:
    """Build a model of recurrent layers."""
    both = layers.Bidirectional(layers.LSTM(3, return_sequences=True))
    body = [layers.Input((12, 4)), both, layers.GRU(4, return_sequences=True), layers.SimpleRNN(4), layers.Dense(3)]
    return keras.Sequential(body)


def build_attention() -> Any:
    """Build a model with attention, layers applied at each step, and a product of matrices."""
    inputs = layers.Input((6, 4))
    x = layers.TimeDistributed(layers.Dense(5, activation="relu"))(inputs)
    attention = layers.MultiHeadAttention(2, 3, value_dim=4, dropout=0.1, name="attention")
    x = layers.LayerNormalization()(x + attention(x, inputs, return_attention_scores=False))
    x = ops.matmul(ops.transpose(x, (0, 2, 1)), layers.MultiHeadAttention(1, 2, use_bias=False)(query=x, value=x))
    return keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))


def build_labels() -> Any:
    """Build a model with a sigmoid for each of three labels."""
    return keras.Sequential([layers.Input((6, 4, 2)), layers.Flatten(), layers.Dense(3, activation="sigmoid")])


def build_autoencoder() -> Any:
    """Build a model whose outputs have the shape of its inputs."""
    body = [layers.Conv2D(4, 3, padding="same", activation="relu"), layers.Conv2D(2, 3, padding="same")]
    return keras.Sequential([layers.Input((6, 4, 2)), *body, layers.Activation("sigmoid")])


def iterate_models() -> Iterator[tuple[str, Any, tuple[int, ...], tuple[str, ...]]]:
    """Yield the models with their names, shapes of an example and endings."""
    yield "nested", build_nested(), (8, 8, 3), (".keras", ".h5")
    yield "operations", build_operations(), (8, 8, 4), (".keras",)
    yield "layers", build_layers(), (8, 8, 3), (".keras", ".h5")
    yield "recurrent", build_recurrent(), (12, 4), (".keras",)
    yield "attention", build_attention(), (6, 4), (".keras", ".h5")
    yield "series", build_series(), (16, 2), (".keras",)
    yield "labels", build_labels(), (6, 4, 2), (".keras",)
    yield "autoencoder", build_autoencoder(), (6, 4, 2), (".keras",)


def iterate_layers(model: Any) -> Iterator[Any]:
    """Yield the layers of a model and of the models inside."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from iterate_layers(layer)
        else:
            yield layer


def main() -> None:
    """Write the archive."""
    rng = np.random.default_rng(0)
    archive_path = Path(__file__).with_name("keras_3_files.zip")
    with tempfile.TemporaryDirectory() as name, zipfile.ZipFile(archive_path, "w", zipfile.ZIP_LZMA) as archive:
        for title, model, shape, endings in iterate_models():
            for layer in iterate_layers(model):
                if layer.weights and not isinstance(layer, layers.Normalization):
                    values = (w + 0.3 * rng.normal(size=w.shape) for w in layer.get_weights())
                    layer.set_weights([np.abs(v) if v.ndim == 1 else v for v in values])
            for ending in endings:
                model.save(Path(name, title + ending))
            inputs = rng.random((EXAMPLES, *shape), np.float32)
            np.savez(Path(name, f"{title}.npz"), inputs=inputs, outputs=model.predict(inputs, verbose=0))
        for path in sorted(Path(name).iterdir()):
            archive.write(path, path.name)


if __name__ == "__main__":
    main()
