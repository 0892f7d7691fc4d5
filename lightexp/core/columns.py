"""The columns of every table of runs: one list, so that the terminal, Markdown and reports show the same."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from typing import Literal

MISSING = "–"


@dataclass(frozen=True)
class Column:
    """A measurement as tables show it.

    Attributes:
        name: The measurement's name, such as `size/file_bytes`.
        heading: For people; names the unit where the cells do not.
        shown: From a finite value to text.
        direction: Which way is better; None where neither is.
    """

    name: str
    heading: str
    shown: Callable[[float], str]
    direction: Literal["max", "min"] | None = None

    def text(self, value: float | None) -> str:
        """A cell: the value in words, or a dash where it was not measured or is not a number."""
        return MISSING if value is None or not math.isfinite(value) else self.shown(value)


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _percent(digits: int) -> Callable[[float], str]:
    return lambda value: f"{value:.{digits}%}"


def _times(value: float) -> str:
    return f"{value:,.1f}x"


def _microseconds(value: float) -> str:
    return f"{value:,.1f}"


COLUMNS: tuple[Column, ...] = (
    Column("accuracy/val", "Accuracy val", _percent(2), "max"),
    Column("accuracy/test", "Accuracy test", _percent(2), "max"),
    Column("size/file_bytes", "File bytes", _count, "min"),
    Column("size/gzip_bytes", "Gzip bytes", _count, "min"),
    Column("size/ratio", "Ratio", _times, "max"),
    Column("size/encoded_bytes", "Encoded bytes", _count, "min"),
    Column("size/encoded_ratio", "Encoded ratio", _times, "max"),
    Column("model/sparsity", "Sparsity", _percent(1)),
    Column("model/params", "Params", _count, "min"),
    Column("compute/macs", "MACs", _count, "min"),
    Column("micro/arena_bytes", "RAM bytes", _count, "min"),
    Column("latency/p50_us", "p50 µs", _microseconds, "min"),
    Column("latency/p95_us", "p95 µs", _microseconds, "min"),
)


def select_columns(rows: Iterable[Container[str]]) -> list[Column]:
    """The columns of a table whose rows have figures of these names; a column without any is left out."""
    names = {column.name for row in rows for column in COLUMNS if column.name in row}
    return [column for column in COLUMNS if column.name in names]
