"""Write JSON that every reader accepts, without NaN and infinities, which `json` writes by default; parse JSON fast."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


def encode_json(value: Any, **options: Any) -> str:
    """Return a value as JSON text, with null for numbers that are not finite.

    Args:
        value: What `json.dumps` takes.
        options: Options of `json.dumps`, such as `indent`.

    Example:
        >>> encode_json({"loss": float("nan"), "epochs": 2})
        '{"loss": null, "epochs": 2}'
    """
    try:
        return json.dumps(value, allow_nan=False, **options)
    except ValueError:
        finite = json.loads(json.dumps(value, **options), parse_constant=lambda constant: None)
        return json.dumps(finite, allow_nan=False, **options)


def parse_json(content: bytes) -> Any:
    """Return the value of JSON in UTF-8, as `json.loads` does, in less than half the time.

    Raises:
        ValueError: If it is not UTF-8, or not JSON.
        RecursionError: If it is nested too deep.

    Example:
        >>> parse_json(b'{"epochs": 2}')
        {'epochs': 2}
    """
    from pydantic_core import from_json  # slow to import; many processes only write

    try:
        return from_json(content)
    except ValueError:  # also for what `json` takes, such as text with half a surrogate pair
        return json.loads(content.decode())


def find_non_finite(value: Any, place: str = "") -> str | None:
    """Return where a number within JSON types is NaN or infinite, such as `history.loss.0`; None if all are finite.

    Args:
        value: JSON types.
        place: Dotted place of the value within what is checked. Defaults to the top.
    """
    if isinstance(value, float):
        return None if math.isfinite(value) else place
    items: Any = ()
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    places = (find_non_finite(item, f"{place}.{name}".lstrip(".")) for name, item in items)
    return next(filter(None, places), None)
