"""The data type that quantisation gives to a kernel, and why."""

from __future__ import annotations

from typing import NamedTuple


class KernelFormat(NamedTuple):
    """Data type of a kernel.

    Attributes:
        dtype: Data type, such as `INT8`.
        block: Number of weights that share a scale; 0 for a scale per channel or tensor.
        reason: Why it is not the requested format; empty if it is.
    """

    dtype: str
    block: int = 0
    reason: str = ""

    @property
    def title(self) -> str:
        """Data type and block, for display."""
        return format_type(self.dtype, self.block)


def format_type(dtype: str, block: int) -> str:
    """Return a data type and its block for display, such as `INT4 in blocks of 32`."""
    return f"{dtype} in blocks of {block}" if block else dtype
