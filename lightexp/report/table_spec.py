"""Specification of a report's table and figures: columns, names of rows, margin, LaTeX layout, published rows."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field, fields
from typing import Annotated, Any, Literal

import yaml  # type: ignore[import-untyped]
from pydantic import Field

from lightexp.core.columns import MetricColumn, find_column
from lightexp.core.config import Positive, construct, settings_dataclass
from lightexp.core.errors import BadInput
from lightexp.core.yaml_text import check_yaml

_FORMAT = re.compile(r"(,?(?:\.\d+)?[f%geE])(x?)")
_LENGTH = re.compile(r"(\d+(?:\.\d+)?) ?(pt|in|cm|mm)")
_POINTS = {"pt": 1.0, "in": 72.27, "cm": 28.45, "mm": 2.845}  # TeX's points by unit
_DEFAULT_WIDTHS = {1: 345.0, 2: 229.5}  # article's text at 10 pt, and one of its two columns
_COLUMN_GAP = 10.0
_MIN_WIDTH = 150.0

FigureName = Literal["front", "ratio", "waterfall", "curves", "layers", "sensitivity", "hypervolume"]


@settings_dataclass
class LatexLayout:
    """Where a paper puts the table, so that `table.tex` is no wider.

    Attributes:
        columns: Columns of the paper's page: 1 or 2. Defaults to 1.
        width: Width of a column of the page, such as `345pt`, `3.3in`, `84mm` or `8.4cm`. Defaults to LaTeX's article
            class: 345pt with one column, 229.5pt with two.
        size: Size of the text in the table. Defaults to `footnotesize`.
    """

    columns: Annotated[int, Field(ge=1, le=2)] = 1
    width: str | None = None
    size: Literal["normalsize", "small", "footnotesize", "scriptsize"] = "footnotesize"

    def __post_init__(self) -> None:
        if self.width is not None and (not _LENGTH.fullmatch(self.width) or self.column_width < _MIN_WIDTH):
            raise ValueError(f"width must be 150pt or more, such as 345pt, 3.3in or 84mm. Received: {self.width!r}.")

    @property
    def column_width(self) -> float:
        """Width of one column of the page in points."""
        match = _LENGTH.fullmatch(self.width or "")
        return float(match[1]) * _POINTS[match[2]] if match else _DEFAULT_WIDTHS[self.columns]

    @property
    def page_width(self) -> float:
        """Width of the page's text in points."""
        return self.column_width if self.columns == 1 else 2 * self.column_width + _COLUMN_GAP


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


@settings_dataclass
class Presentation:
    """What a report shows and how, whatever has run; in an ablation's file or on the command line.

    Attributes:
        columns: Metrics of the table, or `{measurement, heading, format, direction}` of each. The first that is a size
            in bytes (`size/...`) or `npu/<target>/cycles` is the horizontal axis of plots. Defaults to the usual ones.
        labels: By row, how tables and figures name it. Defaults to short forms of the rows' names.
        margin: How much worse than the control a row may be and still count as no worse: percentage points of accuracy,
            or the unit of another primary metric. Defaults to None: differences are tested, not non-inferiority.
        stars: The columns whose significant differences are marked: `quality`, all but sizes, computation and times;
            `all`; or `none`. Defaults to `quality`.
        figures: The plots. Defaults to all that have data.
        latex: The page that `table.tex` is made for: `{columns, width, size}`. Defaults to one column of 345pt.
    """

    _: KW_ONLY
    columns: list[str | dict[str, Any]] = field(default_factory=list)
    labels: dict[str, Annotated[str, Field(min_length=1)]] = field(default_factory=dict)
    margin: Positive | None = None
    stars: Literal["quality", "all", "none"] = "quality"
    figures: list[FigureName] = field(default_factory=list)
    latex: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        titles = list(self.labels.values())
        if repeated := next((title for title in titles if titles.count(title) > 1), None):
            raise ValueError(f"labels must name every row differently. Received for more than one row: {repeated!r}.")

    def fill_spec(self, **texts: Any) -> TableSpec:
        """Return the specification with these settings and further fields of `TableSpec`.

        Raises:
            BadInput: If a column or the LaTeX layout is not valid, or two columns are equal.
        """
        columns = tuple(parse_column(node, f"columns[{i}]") for i, node in enumerate(self.columns))
        heads = [(column.name, column.heading) for column in columns]
        if repeated := next((name for name, heading in heads if heads.count((name, heading)) > 1), None):
            raise BadInput(
                f"columns must differ in their metric or heading. Received more than once: {repeated}. Leave one out."
            )
        return TableSpec(
            columns=columns,
            labels=dict(self.labels),
            margin=self.margin,
            stars=self.stars,
            figures=tuple(self.figures),
            latex=construct(LatexLayout, self.latex, "latex"),
            **texts,
        )


PRESENTATION_SETTINGS = tuple(setting.name for setting in fields(Presentation))


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
        labels: By row, how tables and figures name it; other rows have a short form of their name.
        stars: See `Presentation`.
        latex: The page that `table.tex` is made for.
        infeasible: Rows that break a constraint of their study.
        first: Metrics that come before the others where `columns` is empty, such as a study's objectives.

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
    labels: Mapping[str, str] = field(default_factory=dict)
    stars: Literal["quality", "all", "none"] = "quality"
    latex: LatexLayout = field(default_factory=LatexLayout)
    infeasible: frozenset[str] = frozenset()
    first: tuple[str, ...] = ()


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


def split_presentation(settings: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Separate the settings of `Presentation` on a command line from the others.

    A prefix `report.` may precede their names, and a dotted name is an entry of a mapping.

    Args:
        settings: Arguments such as `columns=[accuracy/test]` or `report.latex.columns=2`.

    Returns:
        The settings' values by name, and the other arguments.

    Raises:
        BadInput: If a value is not valid YAML.

    Example:
        >>> split_presentation(["latex={columns: 2}", "latex.size=small", "dataset=mnist"])
        ({'latex': {'columns': 2, 'size': 'small'}}, ['dataset=mnist'])
    """
    values: dict[str, Any] = {}
    others = []
    for argument in settings:
        key, _, text = argument.partition("=")
        name, _, entry = key.removeprefix("report.").partition(".")
        if name not in PRESENTATION_SETTINGS:
            others.append(argument)
            continue
        value = _parse_yaml(text, key)
        if entry:
            mapping = values.get(name)
            value = {**(mapping if isinstance(mapping, dict) else {}), entry: value}
        values[name] = value
    return values, others


def _parse_yaml(text: str, name: str) -> Any:
    try:
        check_yaml(text)
        return yaml.safe_load(text)
    except (ValueError, yaml.YAMLError):
        raise BadInput(
            f"{name} must be YAML, such as 'columns=[accuracy/test,size/file_bytes]'. Received: {text}."
        ) from None


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
