"""Match layer names with patterns: settings of single layers, and layers that a stage skips."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TypeVar

from lightexp.core.errors import BadInput
from lightexp.core.protocols import Layer

T = TypeVar("T")


def check_patterns(patterns: Iterable[str], layers: Sequence[Layer]) -> None:
    """Check that each pattern matches a layer.

    Args:
        patterns: Patterns of layer names, as of `fnmatch`.
        layers: Layers of the model.

    Raises:
        BadInput: If one matches none; names the pattern and the model's layers.
    """
    for pattern in patterns:
        if not any(fnmatchcase(layer.name, pattern) for layer in layers):
            names = ", ".join(layer.name for layer in layers)
            raise BadInput(f"no layer's name matches '{pattern}'. The model's layers: {names}.")


def split_parts(layers: Sequence[Layer]) -> list[Layer]:
    """Return the layers with one entry `LAYER.PART` for each kernel of a layer that has several."""
    return [
        replace(layer, name=f"{layer.name}.{name}", kernel=shape, parts=()) if name else layer
        for layer in layers
        for name, shape in layer.parts or (("", ()),)
    ]


def skip_reason(layer: Layer, exclude: Sequence[str], participle: str) -> str:
    """Return why a method that works on kernels skips a layer; empty if it does not.

    Args:
        layer: The layer.
        exclude: Patterns of the names of excluded layers.
        participle: What the method does to layers, such as `pruned`.
    """
    if any(fnmatchcase(layer.name, pattern) for pattern in exclude):
        return "excluded"
    if layer.kernel is None:
        return "the file holds it in two pieces" if layer.name.endswith(".recurrent_kernel") else "it has no kernel"
    if layer.kind.startswith("Depthwise") or layer.name.endswith(".depthwise_kernel"):
        return f"depthwise kernels are not {participle}"
    return ""


def resolve_patterns(names: Sequence[str], values: Mapping[str, T], participle: str, noun: str) -> dict[str, T]:
    """Return the value of each layer that a pattern matches.

    Args:
        names: Names of the layers that the method works on.
        values: Values by pattern.
        participle: What the method does to layers, such as `pruned`.
        noun: What the values are, such as `sparsities`.

    Returns:
        Values by layer name; layers that no pattern matches are missing.

    Raises:
        BadInput: If a pattern matches none of the layers, or two set different values for a layer.
    """
    for pattern in values:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise BadInput(f"layers: '{pattern}' matches no layer that is {participle}. These are: {', '.join(names)}.")
    resolved: dict[str, T] = {}
    for name in names:
        matching = {pattern: value for pattern, value in values.items() if fnmatchcase(name, pattern)}
        if len(set(matching.values())) > 1:
            raise BadInput(f"layers: {name} is given several {noun}: {matching}. Give it one.")
        if matching:
            resolved[name] = next(iter(matching.values()))
    return resolved
