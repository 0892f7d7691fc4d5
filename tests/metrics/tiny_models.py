"""Tiny Keras models and the files that TensorFlow's converter makes of them, cached for the session."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from functools import cache
from typing import Any

import numpy as np

from lightexp.backend import session
from lightexp.core.data import Data, Split

os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
SHAPES = {
    "dense": (6, 6, 1),
    "conv": (8, 8, 3),
    "depthwise": (8, 8, 3),
    "dilated": (8, 8, 3),
    "steps": (5, 4),
    "volume": (4, 5, 6, 2),
    "matmul": (5, 4),
}
CLASSES = 4


@cache
def make_data(net: str, classes: int = CLASSES, count: int = 43) -> Data:
    """Return random uint8 examples of the shape that `net` takes."""
    rng = np.random.default_rng(7)

    def split() -> Split:
        x = rng.integers(0, 256, (count, *SHAPES[net]), dtype=np.uint8)
        return Split(x, rng.integers(0, classes, count).astype(np.int32))

    return Data(net, split(), split(), split(), classes, 2 / 255, -1.0)


@cache
def make_keras(net: str, zeroed: bool = False) -> Any:
    """Return a Keras model; `zeroed` sets the first 3 of every 4 values of each kernel to zero."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        session.start_tensorflow(len(os.sched_getaffinity(0)))  # must precede any computation
        import tensorflow as tf
        import tf_keras

        tf_keras.utils.set_random_seed(3)
        kl = tf_keras.layers
        inputs = x = kl.Input(SHAPES[net])
        if net == "dense":
            x = kl.Dense(10, activation="relu")(kl.Flatten()(x))
        elif net == "conv":
            x = kl.Conv2D(5, 3, strides=2, padding="same", activation="relu")(x)
            x = kl.Conv2DTranspose(6, 3, strides=2, padding="same", activation="relu")(x)
            x = kl.Flatten()(kl.MaxPool2D()(x))
        elif net == "dilated":
            # With a bias, the converter would store a second bias of zeros.
            x = kl.Conv2D(5, 3, dilation_rate=2, padding="same", use_bias=False)(x)
            x = kl.DepthwiseConv2D(3, depth_multiplier=2, dilation_rate=2, use_bias=False)(x)
            x = kl.GlobalAveragePooling2D()(x)
        elif net == "depthwise":
            x = kl.DepthwiseConv2D(3, depth_multiplier=2, padding="valid", activation="relu")(x)
            x = kl.GlobalAveragePooling2D()(x)
        elif net == "steps":
            x = kl.Flatten()(kl.Dense(7, activation="relu")(x))
        elif net == "volume":
            x = kl.Flatten()(kl.Conv3D(3, 2, activation="relu")(x))
        elif net == "matmul":
            x = kl.Flatten()(kl.Lambda(lambda t: tf.matmul(t, t, transpose_b=True))(x))
        model = tf_keras.Model(inputs, kl.Dense(CLASSES)(x))
        rng = np.random.default_rng(5)
        values = [
            w if w.ndim > 1 else rng.uniform(0.1, 0.3, w.shape) for w in model.get_weights()
        ]  # biases are not zero
        if zeroed:
            values = [w if w.ndim == 1 else np.where(np.arange(w.size).reshape(w.shape) % 4 < 3, 0, w) for w in values]
        model.set_weights(values)
        return model


@cache
def make_tflite(net: str, scheme: str = "float", zeroed: bool = False, batch: int | None = None) -> bytes:
    """Return a `.tflite`: `float`, `dynamic`, `float16`, or with integer I/O `int8`, `uint8`, `int16x8`."""
    model = make_keras(net, zeroed)
    with warnings.catch_warnings(), session.hide_keras_3():
        warnings.simplefilter("ignore")
        import tensorflow as tf

        served = tf.Module()  # the converter saves its argument; a model would be saved with each layer's functions
        served.model_variables = model.variables
        spec = tf.TensorSpec((batch, *SHAPES[net]), tf.float32, model.input_names[0])
        name = model.output_names[0]
        served.serve = tf.function(lambda x: {name: model(x, training=False)}, input_signature=[spec], autograph=False)
        # from_keras_model saves with debug information and drops the reason when that fails, as it does at rare times.
        folder = tempfile.mkdtemp()
        tf.saved_model.save(served, folder)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        if scheme != "float":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if scheme == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if scheme in ("int8", "uint8", "int16x8"):
            source = make_data(net)
            converter.representative_dataset = lambda: ([source.inputs(x[None])] for x in source.train.x)
            sets, kind = {
                "int8": (tf.lite.OpsSet.TFLITE_BUILTINS_INT8, tf.int8),
                "uint8": (tf.lite.OpsSet.TFLITE_BUILTINS_INT8, tf.uint8),
                "int16x8": (tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8, tf.int16),
            }[scheme]
            converter.target_spec.supported_ops = [sets]
            converter.inference_input_type = converter.inference_output_type = kind
        content = bytes(converter.convert())
        shutil.rmtree(folder)
        return content
