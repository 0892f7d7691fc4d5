"""The types of a quantised file's inputs and outputs."""

from __future__ import annotations

from typing import Literal

from lightexp.core.tflite_graph import TFLiteGraph

IoType = Literal["float", "integer", "int8", "uint8"]
"""`integer` is the type of the activations, int8 or int16."""


def check_io_types(shipped: TFLiteGraph, io: IoType, activations: str) -> str | None:
    """Check the types of a file's inputs and outputs.

    Args:
        shipped: The file.
        io: The type they should have.
        activations: Type of the activations, as the file names it.

    Returns:
        What is wrong; None if nothing is.
    """
    types = {shipped.tensors[index].dtype for index in (*shipped.inputs, *shipped.outputs)}
    expected = {"float": "FLOAT32", "uint8": "UINT8"}.get(io, activations)
    return None if types == {expected} else f"inputs and outputs are {sorted(types)}, were to be {expected}"
