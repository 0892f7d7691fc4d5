"""Specification of a report's table: title, columns, margin, figures and published rows."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from lightexp.core.columns import MetricColumn, find_column
from lightexp.core.config import construct, settings_dataclass
from lightexp.core.errors import BadInput

_FORMAT = re.compile(r"(,?(?:\.\d+)?[f%geE])(x?)")


@settings_dataclass
class PublishedRow:
    """A row of figures that were published elsewhere: marked as such and never tested.

    Attributes:
        name: Name of the row.
        source: Publication and data that the figures come from.
        figures: Values by metric.
    """

    name: str
    source: Annotated[str, Field(min_length=1)]
    figures: Annotated[dict[str, float | int], Field(min_length=1)]


@dataclass(frozen=True)
class TableSpec:
    """What a report shows and how.

    Attributes:
        title: Title of the table.
        claim: What the table is meant to show.
        reference: Publication that the experiment follows.
        cost: Time and hardware that the experiment takes.
        control: Row that the others are compared with; None compares each run with its own float32 control.
        columns: Columns of the table; empty selects the usual metrics that were measured.
        margin: Percentage points of accuracy, or units of another primary metric, that a row may lose and still count
            as no worse; see `lightexp.report.statistics`. None tests for differences instead.
        figures: Names of the figures to draw; empty draws all that there are data for.
        external: Rows published elsewhere.

    Example:
        >>> TableSpec("pruning", columns=(parse_column("accuracy/test", "columns[0]"),)).columns[0].heading
        'Accuracy test'
    """

    title: str
    claim: str = ""
    reference: str = ""
    cost: str = ""
    control: str | None = None
    columns: tuple[MetricColumn, ...] = ()
    margin: float | None = None
    figures: tuple[str, ...] = ()
    external: tuple[PublishedRow, ...] = ()


@settings_dataclass
class ColumnSettings:
    """A column as an ablation's file describes it.

    Attributes:
        measurement: Name of the metric.
        heading: Heading of the column. Defaults to None: the usual one.
        format: Python format of the numbers, such as `.2%` or `.1fx`. Defaults to None: the usual one.
        direction: Which way is better. Defaults to None: the usual one.
    """

    measurement: Annotated[str, Field(min_length=1)]
    heading: str | None = None
    format: str | None = None
    direction: Literal["max", "min"] | None = field(default=None)

    def __post_init__(self) -> None:
        if self.format is not None and not _FORMAT.fullmatch(self.format):
            raise ValueError(f"format must be such as .2% or ,.0f or .1fx. Received: {self.format!r}.")


def parse_column(node: str | Mapping[str, Any], location: str) -> MetricColumn:
    """Return the column that an entry of `columns` describes.

    What the entry leaves out is as in `lightexp.core.columns.COLUMNS`, where the metric is one of them.

    Args:
        node: Name of a metric, or a mapping of `measurement`, `heading`, `format` and `direction`.
        location: Where the entry is, for messages, such as `columns[0]`.

    Raises:
        BadInput: If the mapping has other keys, or its format is not a valid one.
    """
    if not isinstance(node, str) and "measurement" not in node:
        raise BadInput(f"{location} must name a measurement, such as accuracy/test. Received: {dict(node)!r}.")
    settings = construct(ColumnSettings, {"measurement": node} if isinstance(node, str) else node, location)
    name = settings.measurement
    usual = find_column(name)
    formatter = _build_formatter(settings.format) if settings.format else usual.formatter
    return MetricColumn(name, settings.heading or usual.heading, formatter, settings.direction or usual.direction)


def _build_formatter(format_spec: str) -> Callable[[float], str]:
    """Return the formatter for a Python format, which may end in `x` for `times`."""
    if format_spec.endswith("x"):
        return lambda value: f"{value:{format_spec[:-1]}}x"
    return lambda value: f"{value:{format_spec}}"
