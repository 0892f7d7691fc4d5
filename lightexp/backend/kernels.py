"""Find the kernels of Keras layers: one in most, several in recurrent and separable layers."""

from __future__ import annotations

from typing import Any

from lightexp.core.errors import BadInput

_NAMES = ("depthwise_kernel", "kernel", "embeddings")
_RECURRENT = ("LSTM", "GRU", "SimpleRNN")


def is_recurrent(layer: Any) -> bool:
    """Return whether a layer computes its sequence step by step."""
    return type(layer).__name__ in (*_RECURRENT, "Bidirectional")


def list_parts(layer: Any) -> dict[str, Any]:
    """Return the kernels of a layer that has several, by names such as `recurrent_kernel`; empty for other layers.

    Left out is the recurrent kernel of a GRU with `reset_after=False`, which the flatbuffer holds in two pieces.
    """
    kind = type(layer).__name__
    if kind == "Bidirectional":
        sides = {"forward": layer.forward_layer, "backward": layer.backward_layer}
        return {f"{side}.{name}": kernel for side, one in sides.items() for name, kernel in list_parts(one).items()}
    if kind in _RECURRENT:
        parts = {"kernel": layer.cell.kernel, "recurrent_kernel": layer.cell.recurrent_kernel}
        if kind == "GRU" and not layer.cell.reset_after:
            del parts["recurrent_kernel"]
        return parts
    if kind.startswith("SeparableConv"):
        return {"depthwise_kernel": layer.depthwise_kernel, "pointwise_kernel": layer.pointwise_kernel}
    return {}


def list_divided(layer: Any) -> list[str]:
    """Return the names of the kernels that `list_parts` leaves out, as the flatbuffer holds them in two pieces."""
    if type(layer).__name__ == "Bidirectional":
        sides = {"forward": layer.forward_layer, "backward": layer.backward_layer}
        return [f"{side}.{name}" for side, one in sides.items() for name in list_divided(one)]
    return ["recurrent_kernel"] if type(layer).__name__ == "GRU" and not layer.cell.reset_after else []


def require_steps(layer: Any) -> None:
    """Check that a recurrent layer takes sequences of a fixed length, which a `.tflite` of it needs.

    Raises:
        BadInput: If it is recurrent and does not.
    """
    if is_recurrent(layer) and layer.input_shape[1] is None:
        raise BadInput(
            f"{layer.name} takes sequences of any length, a .tflite of it needs a fixed one. "
            "Build the model with Input((STEPS, FEATURES)) and save it again."
        )


def find_kernel(layer: Any) -> Any:
    """Return a layer's kernel, the largest where it has several; None if it has none."""
    if parts := list_parts(layer):
        return max(parts.values(), key=lambda kernel: kernel.shape.num_elements())
    return next((getattr(layer, name) for name in _NAMES if hasattr(layer, name)), None)


def map_kernels(model: Any) -> dict[str, Any]:
    """Return all kernels of a model by the name of their layer, or `LAYER.PART` where the layer has several."""
    kernels: dict[str, Any] = {}
    for layer in model.layers:
        if parts := list_parts(layer):
            kernels |= {f"{layer.name}.{name}": kernel for name, kernel in parts.items()}
        elif (kernel := find_kernel(layer)) is not None:
            kernels[layer.name] = kernel
    return kernels
