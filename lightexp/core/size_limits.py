"""How much a file may unpack to, so that a small file cannot fill the memory or the disk."""

from __future__ import annotations

from pathlib import Path

from lightexp.core.errors import BadInput
from lightexp.core.formatting import format_bytes

ALLOWANCE = 256 * 10**6
"""Bytes that any file may unpack to."""
RATIO = 100
"""Bytes that each byte of a file may unpack to beyond that; weights and data that compress better are rare."""

_LARGEST_NAMED = 10**21  # a broken file can state numbers that no float holds


def compute_size_limit(size: int, max_gb: float | None) -> int:
    """Return how many bytes a file may unpack to.

    Args:
        size: Bytes of the file.
        max_gb: Gigabytes that the user allows. None is 256 MB and 100 times the file's size.
    """
    return ALLOWANCE + RATIO * size if max_gb is None else int(max_gb * 1e9)


def check_unpacked_size(path: Path, unpacked: float, limit: int, setting: str, action: str = "unpacks to") -> None:
    """Check what a file unpacks to, before it is unpacked.

    Args:
        path: The file.
        unpacked: Bytes that it unpacks to.
        limit: See `compute_size_limit`.
        setting: The setting that allows more.
        action: What the file does with so many bytes. Defaults to "unpacks to".

    Raises:
        BadInput: If it is more than the limit.
    """
    if unpacked > limit:
        raise BadInput(
            f"{path} {action} {format_bytes(min(unpacked, _LARGEST_NAMED))} or more; the limit is "
            f"{format_bytes(limit)}. If you know where it is from, set {setting}=GIGABYTES."
        )
