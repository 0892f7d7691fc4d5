"""Quantisation-aware training: a model with simulated 8-bit arithmetic, which the converter makes int8."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from lightexp.backend.flatten import flatten_model
from lightexp.backend.session import import_keras, import_tfmot
from lightexp.backend.stderr import silence_stderr
from lightexp.core.errors import BadInput

# A batch normalisation after these is folded into them; one after a dense layer would make that float32.
_FUSED = ("Conv2D", "DepthwiseConv2D")
_RANGE_PASSES = 3
_BATCH = 500
_PER_STEP = 1000  # tfmot's ema_decay is 0.999


def find_float_layers(model: Any, activations: Collection[str]) -> dict[str, str]:
    """The layers of a flat model that tfmot cannot quantise, with the reason; see `simulated`."""
    registry = _scheme().get_quantize_registry()
    found = {}
    for layer in model.layers:
        kind, activation = _kind(layer), getattr(getattr(layer, "activation", None), "__name__", "")
        if kind == "InputLayer":
            continue
        if kind == "BatchNormalization":
            [before] = _before(layer)
            if _kind(before) not in _FUSED or len(before.outbound_nodes) > 1 or before.activation.__name__ != "linear":
                found[layer.name] = f"{kind} with no convolution of its own before it"
        elif kind != "TFOpLambda" and any(_kind(before) == "TFOpLambda" for before in _before(layer)):
            found[layer.name] = f"{kind} after a bare TensorFlow operation, whose range is not known"
        elif not registry.supports(layer):
            found[layer.name] = kind
        elif activation not in activations:
            found[layer.name] = f"{kind} with {activation}"
    return found


@tf.autograph.experimental.do_not_convert  # nothing to convert in tfmot's wrappers, which would take it seconds
def simulate_int8(model: Any, activations: Collection[str]) -> tuple[Any, dict[str, str]]:
    """A model that computes as its int8 flatbuffer will, ready to be trained.

    tfmot's default 8-bit scheme, applied to each layer that it knows; the others stay float. Models inside the model
    are taken apart first.

    Args:
        model: A functional or sequential Keras model; left as it is.
        activations: Names of those that tfmot can simulate inside a layer.

    Returns:
        The new model, and the layers that stay float with the reason.

    Raises:
        BadInput: If no layer with weights can be quantised, or one is used more than once.
    """
    quantization = import_tfmot().quantization.keras
    # Not in its public names.
    from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import default_8bit_quantize_configs

    flat = flatten_model(model)
    if shared := [layer.name for layer in flat.layers if len(layer.inbound_nodes) > 1]:
        raise BadInput(f"{shared[0]} is used more than once, which 8-bit training cannot follow. Use quantize instead.")
    left = find_float_layers(flat, activations)
    if all(layer.name in left for layer in flat.layers if layer.weights):
        raise BadInput(f"no layer can be trained in 8 bits: {left}. Quantise after training: scheme=int8 of quantize.")

    output_only = default_8bit_quantize_configs.Default8BitOutputQuantizeConfig

    def annotated(layer: Any) -> Any:
        clone = type(layer).from_config(layer.get_config())
        if layer.name not in left:
            return quantization.quantize_annotate_layer(clone)
        if _kind(layer) == "TFOpLambda":
            return clone
        return quantization.quantize_annotate_layer(clone, output_only())  # so that the next takes integers

    with silence_stderr(), quantization.quantize_scope({output_only.__name__: output_only}):
        marked = import_keras().models.clone_model(flat, clone_function=annotated)
        marked.set_weights(flat.get_weights())
        return quantization.quantize_apply(marked, _scheme()), left


def list_kernels(model: Any) -> list[Any]:
    """The kernels of a simulated model: in its wrappers, where the layers hold what is made of them."""
    found = []
    for layer in model.layers:
        inner = getattr(layer, "layer", layer)
        found += [w for w in inner.trainable_weights + layer.trainable_weights if "kernel" in w.name.split("/")[-1]]
    return list({id(kernel): kernel for kernel in found}.values())


def find_ranges(model: Any, inputs: NDArray[np.float32]) -> None:
    """Sets the ranges of a simulated model's activations to what a sample shows.

    tfmot starts them at -6 to 6 and moves them by a thousandth at each step, too slow for a short training. Such a step
    is made here and taken a thousand times as far, until the last layer has seen the ranges of the first. The range of
    the input spans whatever has been seen.
    """
    before = model.get_weights()
    for _ in range(_RANGE_PASSES):
        old = model.get_weights()
        model(inputs, training=True)
        for variable, was, first in zip(model.weights, old, before, strict=True):
            name = variable.name.split(":")[0]
            if not name.endswith(("_min", "_max")) or "kernel" in name:
                variable.assign(first)  # batch normalisation's statistics, and what is made anew at each step
            elif not name.startswith("quantize_layer"):
                variable.assign(was + _PER_STEP * (variable - was))


def compute_logits(model: Any, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """The logits of a simulated model. As Keras's `predict`, which spends seconds on autograph for nothing."""
    call = tf.function(lambda x: model(x, training=False), reduce_retracing=True, autograph=False)
    batches = [call(inputs[start : start + _BATCH]).numpy() for start in range(0, len(inputs), _BATCH)]
    return np.concatenate(batches)


def _kind(layer: Any) -> str:
    return type(layer).__name__


def _before(layer: Any) -> list[Any]:
    return list(tf.nest.flatten(layer.inbound_nodes[0].inbound_layers))


def _scheme() -> Any:
    return import_tfmot().quantization.keras.default_8bit.Default8BitQuantizeScheme()
