"""From a Keras model to a flatbuffer, by TensorFlow's converter."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from lightexp.backend.quiet import quiet


def to_float32(model: Any) -> bytes:
    """The float32 flatbuffer of a Keras model."""
    with quiet():
        return bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())


def to_default(model: Any) -> bytes:
    """The flatbuffer that the converter makes of a Keras model by `Optimize.DEFAULT`: dynamic range."""
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    with quiet():
        return bytes(converter.convert())
