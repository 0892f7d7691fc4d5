"""What a report is made from: runs by row and seed, and how they are to be shown."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from lightexp.core.columns import COLUMNS, MetricColumn
from lightexp.core.config import construct, settings_dataclass
from lightexp.core.errors import BadInput

_FORMAT = re.compile(r"(,?(?:\.\d+)?[f%geE])(x?)")


@settings_dataclass
class PublishedRow:
    """A row of published figures: marked, and outside all tests.

    Attributes:
        name: In the table.
        source: Where they were published, and of what data they are.
        figures: By measurement.
    """

    name: str
    source: Annotated[str, Field(min_length=1)]
    figures: Annotated[dict[str, float | int], Field(min_length=1)]


@dataclass(frozen=True)
class TableSpec:
    """How a table is to look.

    Attributes:
        title: Of the table.
        claim: What it is to show.
        reference: The publication that it goes back to.
        cost: What it takes to run.
        control: The row that the others are compared with; None makes one of the runs' own controls.
        columns: Its columns; empty takes the usual ones that were measured.
        margin: In percentage points, of accuracy: see `lightexp.report.statistics`.
        figures: Which to draw; empty draws all that there are data for.
        external: Published rows.
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
class _Column:
    measurement: Annotated[str, Field(min_length=1)]
    heading: str | None = None
    format: str | None = None
    direction: Literal["max", "min"] | None = field(default=None)

    def __post_init__(self) -> None:
        if self.format is not None and not _FORMAT.fullmatch(self.format):
            raise ValueError(f"format must be such as .2% or ,.0f or .1fx. Received: {self.format!r}.")


def parse_column(node: str | Mapping[str, Any], where: str) -> MetricColumn:
    """A column from a measurement's name, or from a mapping of it, `heading`, `format` and `direction`.

    What is not given is as in every other table of lightexp, where that has the measurement.

    Raises:
        BadInput: If the mapping has other keys, or a format that is none.
    """
    if not isinstance(node, str) and "measurement" not in node:
        raise BadInput(f"{where} must name a measurement, such as accuracy/test. Received: {dict(node)!r}.")
    given = construct(_Column, {"measurement": node} if isinstance(node, str) else node, where)
    name = given.measurement
    usual = next((known for known in COLUMNS if known.name == name), MetricColumn(name, name, _plain))
    shown = usual.formatter
    if given.format and (found := _FORMAT.fullmatch(given.format)):
        shape, times = found.groups()
        shown = lambda value: f"{value:{shape}}{times}"  # noqa: E731
    return MetricColumn(name, given.heading or usual.heading, shown, given.direction or usual.direction)


def _plain(value: float) -> str:
    return f"{value:,.4g}"
