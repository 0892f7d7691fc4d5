"""Quantisation-aware training: a Keras model that simulates 8-bit arithmetic and that the converter makes int8."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightexp.backend.converter import unroll_layer
from lightexp.backend.flatten import flatten_model
from lightexp.backend.session import import_keras, import_tensorflow, import_tfmot
from lightexp.backend.stderr import silence_stderr
from lightexp.core.data import Data
from lightexp.core.errors import BadInput
from lightexp.core.memmap import read_chunk
from lightexp.core.streamed_array import Rows

tf = import_tensorflow()

# A batch normalisation after these is folded into them; one after a dense layer would make that layer float32.
_FOLDING_KINDS = ("Conv2D", "DepthwiseConv2D")
_RELU_PARTNERS = (*_FOLDING_KINDS, "Conv2DTranspose", "Dense")  # tfmot rounds after a ReLU behind these, not before it
_RELU_LIMITS = (None, 6)  # of operators that the file format has
_RANGE_PASSES = 3  # until the last layer has seen the final ranges of the first
_RANGE_STEP = 1000  # tfmot moves ranges by a thousandth at each step (ema_decay 0.999)
_EVALUATION_BATCH = 500


def find_float_layers(model: Any, activations: Collection[str]) -> dict[str, str]:
    """Return the layers of a flat model that are not trained in 8 bits, with the reason.

    Args:
        model: The model.
        activations: As in `simulate_int8`.

    Raises:
        BadInput: If no layer with weights can be quantised, or a layer is used more than once.
    """
    shared = [layer.name for layer in model.layers if len(layer.inbound_nodes) > 1]
    if shared:
        raise BadInput(f"{shared[0]} is used more than once, which 8-bit training cannot follow. Use quantize instead.")
    reasons: dict[str, str] = {}
    for layer in model.layers:
        if _name_class(layer) != "InputLayer" and (reason := _find_float_reason(layer, reasons, activations)):
            reasons[layer.name] = reason
    for layer in model.layers:
        reason = reasons.get(layer.name, "")
        if _name_class(layer) == "ReLU" and reason:  # tfmot simulates no rounding between it and the layer before it
            [previous] = _list_previous_layers(layer)
            if _name_class(previous) in _RELU_PARTNERS and previous.name not in reasons:
                reasons[previous.name] = f"{_name_class(previous)} before a {reason}"
    if all(layer.name in reasons for layer in model.layers if layer.weights):
        raise BadInput(
            f"no layer can be trained in 8 bits: {reasons}. Quantise after training: scheme=int8 of quantize."
        )
    return reasons


def count_int8_weights(model: Any, reasons: Collection[str], activations: Collection[str]) -> dict[str, int]:
    """Return the sizes of the kernels that the file must hold as int8, by layer.

    Args:
        model: The model before `simulate_int8`.
        reasons: Names of the layers that are not simulated.
        activations: As in `simulate_int8`.
    """
    sizes = {}
    for layer in flatten_model(model).layers:
        kernel = getattr(layer, "depthwise_kernel", getattr(layer, "kernel", None))
        if kernel is not None and (layer.name not in reasons or converts_to_int8(layer, activations)):
            sizes[layer.name] = int(tf.size(kernel))
    return sizes


def converts_to_int8(layer: Any, activations: Collection[str]) -> bool:
    """Return whether the converter quantises the kernel of a layer that `find_float_layers` returns.

    Args:
        layer: The layer.
        activations: As in `simulate_int8`.
    """
    is_quantized = _name_class(layer) in ("Conv1D", "DepthwiseConv1D") and not _is_dilated(layer)
    return is_quantized and layer.activation.__name__ in activations


def _find_float_reason(layer: Any, reasons: Mapping[str, str], activations: Collection[str]) -> str:
    """Return why a layer is not trained in 8 bits, given the reasons of the layers before; empty if it is."""
    kind, previous = _name_class(layer), _list_previous_layers(layer)
    activation = getattr(getattr(layer, "activation", None), "__name__", "")
    if kind == "BatchNormalization":
        [convolution] = previous
        is_folded = (
            _name_class(convolution) in _FOLDING_KINDS
            and convolution.name not in reasons
            and len(convolution.outbound_nodes) == 1
            and convolution.activation.__name__ == "linear"
        )
        return "" if is_folded else f"{kind} with no 8-bit convolution of its own before it"
    if kind != "TFOpLambda" and any(_name_class(layer) == "TFOpLambda" for layer in previous):
        return f"{kind} after a bare TensorFlow operation, whose range is not known"
    if not _make_default_scheme().get_quantize_registry().supports(layer):
        return kind
    if activation not in activations:
        return f"{kind} with {activation}"
    # The converter computes the following by several operators, between which tfmot simulates no rounding.
    if _is_dilated(layer):
        return f"{kind} with dilation_rate={layer.dilation_rate}"
    if kind == "Dense" and layer.use_bias and len(layer.input_shape) > 2:
        return f"{kind} with a bias, on an input of {len(layer.input_shape)} axes"
    if kind == "ReLU" and not _is_leaky(layer):
        if layer.negative_slope or layer.threshold:
            return f"{kind} with threshold={layer.threshold:g}, negative_slope={layer.negative_slope:g}"
        if layer.max_value not in _RELU_LIMITS:
            return f"{kind} with max_value={layer.max_value:g}"
    return ""


def _is_dilated(layer: Any) -> bool:
    return max(getattr(layer, "dilation_rate", (1,))) > 1


def _is_leaky(layer: Any) -> bool:
    """Return whether a `ReLU` computes what a `LeakyReLU` does."""
    return bool(layer.negative_slope) and not layer.threshold and layer.max_value is None


@tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]  # converting tfmot's wrappers takes seconds
def simulate_int8(model: Any, activations: Collection[str]) -> tuple[Any, dict[str, str]]:
    """Return a trainable model that computes as its int8 flatbuffer will.

    Applies tfmot's default 8-bit scheme to each layer that tfmot supports; the others stay float. Models inside the
    model are flattened first.

    Args:
        model: A functional or sequential Keras model; not changed.
        activations: Names of the activations that tfmot can simulate inside a layer.

    Returns:
        The new model, and the layers that stay float with the reason.

    Raises:
        BadInput: As `find_float_layers`.
    """
    quantization = import_tfmot().quantization.keras
    # tfmot 0.8.1 exports no public name for a config that quantises a layer's output only.
    from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import default_8bit_quantize_configs

    output_only = default_8bit_quantize_configs.Default8BitOutputQuantizeConfig
    flat = flatten_model(model)
    reasons = find_float_layers(flat, activations)

    def annotate(layer: Any) -> Any:
        if _name_class(layer) == "ReLU" and _is_leaky(layer):  # tfmot takes it for a ReLU without a slope
            clone = import_keras().layers.LeakyReLU(float(layer.negative_slope), name=layer.name)
        else:
            clone = unroll_layer(layer)
        if layer.name not in reasons:
            return quantization.quantize_annotate_layer(clone)
        if _name_class(layer) == "TFOpLambda":
            return clone
        return quantization.quantize_annotate_layer(clone, output_only())  # so that the next layer takes integers

    with silence_stderr(), quantization.quantize_scope({output_only.__name__: output_only}):
        annotated = import_keras().models.clone_model(flat, clone_function=annotate)
        annotated.set_weights(flat.get_weights())
        return quantization.quantize_apply(annotated, _make_default_scheme()), reasons


def list_kernels(model: Any) -> list[Any]:
    """Return the float kernels of a simulated model.

    tfmot's wrappers hold them; the wrapped layers' own attributes are replaced by quantised tensors.
    """
    kernels: dict[int, Any] = {}
    for layer in model.layers:
        inner = getattr(layer, "layer", layer)
        for weight in inner.trainable_weights + layer.trainable_weights:
            if weight.name.split("/")[-1].split(":")[0].endswith(("kernel", "embeddings")):
                kernels[id(weight)] = weight
    return list(kernels.values())


def find_ranges(model: Any, inputs: NDArray[np.float32]) -> None:
    """Set the ranges of a simulated model's activations to what a sample shows.

    tfmot starts activations at -6 to 6 and moves them by a thousandth at each step, which is too slow for a short
    training. Here such a step is made and extrapolated a thousand times, often enough that the last layer has seen
    the ranges of the first. The range of the model's input covers every value seen.

    Args:
        model: The simulated model; its weights are not changed otherwise.
        inputs: Scaled examples `(n, *shape)`.
    """
    initial = model.get_weights()
    for _ in range(_RANGE_PASSES):
        previous = model.get_weights()
        model(inputs, training=True)
        for variable, old, first in zip(model.weights, previous, initial, strict=True):
            name = variable.name.split(":")[0]
            if not name.endswith(("_min", "_max")) or "kernel" in name:
                variable.assign(first)  # statistics of batch normalisation, and what every step computes anew
            elif not name.startswith("quantize_layer"):
                variable.assign(old + _RANGE_STEP * (variable - old))


def compute_logits(model: Any, raw: Rows, data: Data) -> NDArray[np.float32]:
    """Return a simulated model's logits `(n, classes)` for raw examples `(n, *shape)`.

    Keras' `predict` gives the same, after seconds of autograph conversion that these models do not need.
    """
    call = tf.function(lambda x: model(x, training=False), reduce_retracing=True, autograph=False)
    starts = range(0, len(raw), _EVALUATION_BATCH)
    batches = (data.inputs(read_chunk(raw, slice(start, start + _EVALUATION_BATCH))) for start in starts)
    return np.concatenate([call(inputs).numpy() for inputs in batches])


def _name_class(layer: Any) -> str:
    return type(layer).__name__


def _list_previous_layers(layer: Any) -> list[Any]:
    return list(tf.nest.flatten(layer.inbound_nodes[0].inbound_layers))


def _make_default_scheme() -> Any:
    return import_tfmot().quantization.keras.default_8bit.Default8BitQuantizeScheme()
