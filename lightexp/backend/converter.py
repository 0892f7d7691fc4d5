"""From a Keras model to a flatbuffer, by TensorFlow's converter."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import tensorflow as tf
from tensorflow.lite.python.convert import ConverterError

from lightexp.backend.session import hide_keras_3
from lightexp.backend.stderr import silence_stderr
from lightexp.core.errors import RunFailed


def convert_to_float32(model: Any) -> bytes:
    """The float32 flatbuffer of a Keras model."""
    with silence_stderr(), hide_keras_3(), _plain_errors():
        return bytes(_converter(model).convert())


def convert_default(model: Any, integer_io: bool = False) -> bytes:
    """What the converter makes of a Keras model by `Optimize.DEFAULT`: dynamic range, or int8 after `qat`.

    Args:
        model: The model.
        integer_io: Whether, after `qat`, the file takes and gives int8.
    """
    with silence_stderr(), hide_keras_3(), _plain_errors(), warnings.catch_warnings():
        converter = _converter(model)
        if integer_io:
            converter.inference_input_type = converter.inference_output_type = tf.int8
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        # The ranges that `qat` has trained stand in the model, which the converter's own check overlooks.
        warnings.filterwarnings("ignore", message="Statistics for quantized inputs were expected")
        return bytes(converter.convert())


def _converter(model: Any) -> Any:
    """The converter of a Keras model of one input and one output, which makes the same file in a third of the time.

    It saves what it is given for TensorFlow to read again. Of a Keras model it would save every layer's own functions,
    too; here, the one function that it then converts.
    """
    [taken], [name], [given] = model.inputs, model.input_names, model.output_names
    image = tf.TensorSpec([None, *taken.shape[1:]], taken.dtype, name)
    served = tf.Module()
    served.variables_of_the_model = model.variables
    # Layers need no conversion by autograph, which takes seconds after `qat`.
    served.serve = tf.function(lambda x: {given: model(x, training=False)}, input_signature=[image], autograph=False)
    return tf.lite.TFLiteConverter.from_keras_model(served)


@contextmanager
def _plain_errors() -> Iterator[None]:
    try:
        yield
    except AttributeError as error:
        if type(error.obj) is not tf.Module:
            raise
        # The converter could not save it, says nothing of why, and asks the module for what only a Keras model has.
        raise RunFailed(
            f"TensorFlow cannot save this model for its converter. Is there room in {tempfile.gettempdir()}?"
        ) from None
    except ConverterError as error:
        words = str(error).splitlines()[0].rpartition("error: ")[2].rstrip(".")
        raise RunFailed(f"TensorFlow's converter cannot make a .tflite of this model: {words}.") from None
