"""Settings of single layers, by pattern of their names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TypeVar

from lightexp.core.errors import BadInput
from lightexp.core.protocols import Layer

T = TypeVar("T")


def check_patterns(patterns: Iterable[str], layers: Sequence[Layer]) -> None:
    """Refuses a pattern that matches no layer.

    Raises:
        BadInput: Names the pattern and the model's layers.
    """
    for pattern in patterns:
        if not any(fnmatchcase(layer.name, pattern) for layer in layers):
            names = ", ".join(layer.name for layer in layers)
            raise BadInput(f"no layer's name matches '{pattern}'. The model's layers: {names}.")


def skip_reason(layer: Layer, exclude: Sequence[str], done: str) -> str:
    """Why a layer is left alone by a method that works on kernels; empty if it is not.

    Args:
        layer: The layer.
        exclude: Patterns of names.
        done: What the method does, such as `pruned`.
    """
    if any(fnmatchcase(layer.name, pattern) for pattern in exclude):
        return "excluded"
    if layer.kernel is None:
        return "it has no kernel"
    return f"depthwise kernels are not {done}" if layer.kind.startswith(("Depthwise", "Separable")) else ""


def resolve_patterns(layers: Sequence[str], given: Mapping[str, T], done: str, what: str) -> dict[str, T]:
    """The value of each layer that a pattern names.

    Args:
        layers: Names of those that the method works on.
        given: Values by pattern.
        done: What the method does, such as `pruned`.
        what: What the values are, such as `sparsities`.

    Raises:
        BadInput: If a pattern matches none of the layers, or two give one layer different values.
    """
    for pattern in given:
        if not any(fnmatchcase(name, pattern) for name in layers):
            raise BadInput(f"layers: '{pattern}' matches no layer that is {done}. These are: {', '.join(layers)}.")
    values: dict[str, T] = {}
    for name in layers:
        found = {pattern: value for pattern, value in given.items() if fnmatchcase(name, pattern)}
        if len(set(found.values())) > 1:
            raise BadInput(f"layers: {name} is given several {what}: {found}. Give it one.")
        if found:
            values[name] = next(iter(found.values()))
    return values
