"""From a Keras model to a flatbuffer, by TensorFlow's converter."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.lite.python.convert import ConverterError

from lightexp.backend.quiet import quiet
from lightexp.core.errors import RunFailed


def to_float32(model: Any) -> bytes:
    """The float32 flatbuffer of a Keras model."""
    with quiet(), _plain_errors():
        return bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())


def to_quantized(model: Any, scheme: str, integer_io: bool, samples: NDArray[np.float32] | None) -> bytes:
    """A post-training quantised flatbuffer of a Keras model.

    Args:
        model: A Keras model.
        scheme: `default` (`Optimize.DEFAULT`: dynamic range), `float16`, `int8` or `int16x8`.
        integer_io: Whether inputs and outputs are integers too (`int8` and `int16x8`).
        samples: Calibration inputs `(n, *shape)` for `int8` and `int16x8`.
    """
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if scheme == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if samples is not None:
        converter.representative_dataset = lambda: ([sample[None]] for sample in samples)
        builtins = tf.lite.OpsSet.TFLITE_BUILTINS_INT8
        if scheme == "int16x8":
            builtins = tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
        converter.target_spec.supported_ops = [builtins]
        if integer_io:
            kind = tf.int16 if scheme == "int16x8" else tf.int8
            converter.inference_input_type = converter.inference_output_type = kind
    with quiet(), _plain_errors(), warnings.catch_warnings():
        # The statistics come from the calibration, which the converter's own check overlooks.
        warnings.filterwarnings("ignore", message="Statistics for quantized inputs were expected")
        return bytes(converter.convert())


@contextmanager
def _plain_errors() -> Iterator[None]:
    try:
        yield
    except ConverterError as error:
        words = str(error).splitlines()[0].rpartition("error: ")[2].rstrip(".")
        raise RunFailed(f"TensorFlow's converter cannot make a .tflite of this model: {words}.") from None
