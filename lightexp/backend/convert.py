"""From a Keras model to a flatbuffer, by TensorFlow's converter."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import tensorflow as tf
from tensorflow.lite.python.convert import ConverterError

from lightexp.backend.quiet import quiet
from lightexp.backend.session import without_keras_3
from lightexp.core.errors import RunFailed


def to_float32(model: Any) -> bytes:
    """The float32 flatbuffer of a Keras model."""
    with quiet(), without_keras_3(), _plain_errors():
        return bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())


def to_default(model: Any, integer_io: bool = False) -> bytes:
    """What the converter makes of a Keras model by `Optimize.DEFAULT`: dynamic range, or int8 after `qat`.

    Args:
        model: The model.
        integer_io: Whether, after `qat`, the file takes and gives int8.
    """
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if integer_io:
        converter.inference_input_type = converter.inference_output_type = tf.int8
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    with quiet(), without_keras_3(), _plain_errors(), warnings.catch_warnings():
        # The ranges that `qat` has trained stand in the model, which the converter's own check overlooks.
        warnings.filterwarnings("ignore", message="Statistics for quantized inputs were expected")
        return bytes(converter.convert())


@contextmanager
def _plain_errors() -> Iterator[None]:
    try:
        yield
    except ConverterError as error:
        words = str(error).splitlines()[0].rpartition("error: ")[2].rstrip(".")
        raise RunFailed(f"TensorFlow's converter cannot make a .tflite of this model: {words}.") from None
