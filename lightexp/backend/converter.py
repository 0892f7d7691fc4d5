"""Convert Keras models to `.tflite` flatbuffers with TensorFlow's converter."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightexp.backend.embedded_format import make_embeddable
from lightexp.backend.kernels import is_recurrent, require_steps
from lightexp.backend.session import hide_keras_3, import_keras, import_tensorflow
from lightexp.backend.stderr import silence_stderr
from lightexp.core.errors import RunFailed

tf = import_tensorflow()

_IO_TYPES = {"float": tf.float32, "integer": tf.int8, "uint8": tf.uint8}


def convert_to_float32(model: Any) -> bytes:
    """Return the float32 flatbuffer of a Keras model."""
    with silence_stderr(), hide_keras_3(), _as_run_failed():
        return bytes(create_converter(model).convert())


def convert_default(model: Any, io: str = "float") -> bytes:
    """Return the flatbuffer that `Optimize.DEFAULT` makes: dynamic-range, or int8 of a model simulated by `qat`.

    Args:
        model: The model.
        io: Type of inputs and outputs of a model simulated by `qat`: `float`, `integer` (int8) or `uint8`. Defaults to
            `float`.
    """
    with silence_stderr(), hide_keras_3(), _as_run_failed(), warnings.catch_warnings():
        converter = create_converter(model)
        converter.inference_input_type = converter.inference_output_type = _IO_TYPES[io]
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        # The model contains the ranges that `qat` has trained; the converter's check looks for a calibration set.
        warnings.filterwarnings("ignore", message="Statistics for quantized inputs were expected")
        return make_embeddable(bytes(converter.convert()))


def unroll_recurrent(model: Any) -> Any:
    """Return the model with its recurrent layers unrolled over the steps of their sequences; itself if it has none.

    TFLite's loops fix the batch size, and its fused LSTM carries its state from one call to the next.
    """
    if not any(is_recurrent(layer) for layer in model.layers):
        return model
    unrolled = import_keras().models.clone_model(model, clone_function=unroll_layer)
    unrolled.set_weights(model.get_weights())
    return unrolled


def unroll_layer(layer: Any) -> Any:
    """Return a new layer with the same settings; a recurrent one is unrolled."""
    config = layer.get_config()
    if is_recurrent(layer):
        require_steps(layer)
        for inner in (config.get("layer"), config.get("backward_layer")):
            if inner:
                inner["config"]["unroll"] = True
        if "unroll" in config:
            config["unroll"] = True
    return type(layer).from_config(config)


def create_converter(model: Any) -> Any:
    """Return a `tf.lite.TFLiteConverter` for a Keras model with one input and one output.

    It converts to the same bytes as `from_keras_model(model)` in a third of the time: the converter saves the model
    for TensorFlow to read again, and saves every layer's functions with a Keras model, but only one function here.
    """
    model = unroll_recurrent(model)
    [model_input], [input_name], [output_name] = model.inputs, model.input_names, model.output_names
    signature = tf.TensorSpec([None, *model_input.shape[1:]], model_input.dtype, input_name)
    module = tf.Module()
    module.model_variables = model.variables
    # Layers need no conversion by autograph, which takes seconds for models simulated by `qat`.
    module.serve = tf.function(
        lambda x: {output_name: model(x, training=False)}, input_signature=[signature], autograph=False
    )
    return tf.lite.TFLiteConverter.from_keras_model(module)


@contextmanager
def _as_run_failed() -> Iterator[None]:
    """Turn the converter's exceptions into one line for the user."""
    from tensorflow.lite.python.convert import ConverterError  # not exported by tf.lite in TensorFlow 2.21

    try:
        yield
    except AttributeError as error:
        if type(error.obj) is not tf.Module:
            raise
        # When it cannot save the module, the converter drops the reason and tries what only a Keras model has.
        raise RunFailed(
            f"TensorFlow cannot save this model for its converter. Is there room in {tempfile.gettempdir()}?"
        ) from None
    except ConverterError as error:
        message = str(error).splitlines()[0].rpartition("error: ")[2].rstrip(".")
        raise RunFailed(f"TensorFlow's converter cannot make a .tflite of this model: {message}.") from None
