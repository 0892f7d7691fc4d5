"""Units of sizes, and texts such as `12 KiB`."""

from __future__ import annotations

import re
from typing import Any

BYTE_UNITS = {"b": 1, "byte": 1, "bytes": 1, "kb": 10**3, "kib": 2**10, "mb": 10**6, "mib": 2**20, "gib": 2**30}
"""Bytes of each unit, in lower case."""
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([a-zA-Z]*)")


def parse_bytes(size: Any) -> Any:
    """Return the bytes of a text such as `12 KiB`; anything but a text is returned as it is.

    Args:
        size: A text, or a number of bytes.

    Raises:
        ValueError: If the text is no size.

    Example:
        >>> parse_bytes("12KiB"), parse_bytes("1.5 kB"), parse_bytes(800)
        (12288, 1500, 800)
    """
    if not isinstance(size, str):
        return size
    parts = _SIZE.fullmatch(size.strip())
    if parts is None or (parts[2] or "b").lower() not in BYTE_UNITS:
        raise ValueError("Input should be a number of bytes, or a size such as 12KiB or 1.5MB")
    return round(float(parts[1]) * BYTE_UNITS[(parts[2] or "b").lower()])
