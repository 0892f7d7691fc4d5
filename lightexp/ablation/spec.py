"""The file of an ablation: a claim, its rows and seeds, and how its table is to look."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import Field
from yaml import YAMLError  # type: ignore[import-untyped]

from lightexp.ablation.rows import AblationRow, expand_rows
from lightexp.core.columns import MetricColumn
from lightexp.core.config import Positive, construct, settings_dataclass
from lightexp.core.errors import BadInput
from lightexp.report.table_spec import PublishedRow, TableSpec, parse_column

_ASIDE = ("paths", "tracking", "runtime", "measure", "hydra")  # what changes no row


@settings_dataclass
class AblationFile:
    """An ablation's file, checked.

    Attributes:
        claim: What the table is to show, in a sentence or two.
        control: The name of the row that the others are compared with.
        seeds: Of the runs; every row has all of them.
        rows: By name, a list of overrides or a planner; see `lightexp.ablation.rows`.
        reference: The publication that the claim or its figures come from. Defaults to none.
        cost: What it takes, such as `25 minutes on two cores`. Defaults to no word of it.
        base: Overrides that all rows share. Defaults to none.
        external: Published figures by row, each `{source: words, figures: {measurement: value}}`; shown, never tested.
        columns: Measurements of the table, or `{measurement, heading, format, direction}` of each. Defaults to the
            usual ones.
        margin: In percentage points: what accuracy may lose against the control and still count as no worse.
            Defaults to None: differences are tested, not non-inferiority.
        figures: Which to draw. Defaults to all that there are data for.
    """

    claim: Annotated[str, Field(min_length=1)]
    control: str
    seeds: Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1)]
    rows: Annotated[dict[str, Any], Field(min_length=1)]
    reference: str = ""
    cost: str = ""
    base: list[str] = field(default_factory=list)
    external: dict[str, Any] = field(default_factory=dict)
    columns: list[str | dict[str, Any]] = field(default_factory=list)
    margin: Positive | None = None
    figures: list[Literal["front", "ratio", "waterfall", "curves", "layers", "sensitivity", "hypervolume"]] = field(
        default_factory=list
    )

    def __post_init__(self) -> None:
        if repeated := sorted({seed for seed in self.seeds if self.seeds.count(seed) > 1}):
            raise ValueError(f"seeds: {repeated[0]} is there twice. Received: {self.seeds}. Name each seed once.")


@dataclass(frozen=True)
class AblationSpec:
    """An ablation ready to be planned or reported.

    Attributes:
        path: Its file.
        name: The file's stem, and what the command line has changed of it.
        rows: In the order of the table.
        seeds: As in the file.
        show: How its table is to look.
    """

    path: Path
    name: str
    rows: tuple[AblationRow, ...]
    seeds: tuple[int, ...]
    show: TableSpec

    @property
    def results(self) -> Path:
        """The folder of what a report writes."""
        return self.path.parent / "results" / self.name


def read_spec(path: Path, overrides: list[str]) -> AblationSpec:
    """Reads an ablation's file and expands its rows.

    Args:
        path: The file.
        overrides: Of the command line; they come after the file's `base` and before each row's own.

    Raises:
        BadInput: For the first thing that is wrong, with its place.
    """
    values = _parsed(path)
    try:
        file = construct(AblationFile, values, "")
        base = [*file.base, *overrides]
        rows = expand_rows(file.rows, base)
        names = [row.name for row in rows]
        if file.control not in names:
            raise BadInput(f"control: no row is named '{file.control}'. The rows are: {', '.join(names)}.")
        if refused := next(row.refused for row in rows if row.name == file.control):
            raise BadInput(f"control: '{file.control}' cannot run: {refused}")
        external = tuple(_external(name, node, names) for name, node in file.external.items())
        columns: tuple[MetricColumn, ...] = tuple(
            parse_column(node, f"columns[{i}]") for i, node in enumerate(file.columns)
        )
    except BadInput as error:
        raise BadInput(f"{path}: {str(error).removeprefix(': ')}") from None
    show = TableSpec(
        title=path.stem,
        claim=file.claim,
        reference=file.reference,
        cost=file.cost,
        control=file.control,
        columns=columns,
        margin=file.margin,
        figures=tuple(file.figures),
        external=external,
    )
    return AblationSpec(path, path.stem + _changed(overrides), rows, tuple(file.seeds), show)


def _parsed(path: Path) -> dict[str, Any]:
    try:
        values = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except FileNotFoundError:
        raise BadInput(f"{path} is not there. Name an ablation's file, such as experiments/01_article.yaml.") from None
    except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException) as error:
        raise BadInput(f"{path} cannot be read as YAML: {_first(error)}.") from None
    if not isinstance(values, dict) or not values:
        raise BadInput(f"{path} must be a mapping with claim, control, seeds and rows. Received: {values!r:.60}.")
    return {str(name): value for name, value in values.items()}


def _first(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    words = getattr(error, "problem", None) or str(error)
    return f"{words} in line {mark.line + 1}" if mark else str(words).rstrip(".")


def _external(name: str, node: Any, rows: list[str]) -> PublishedRow:
    if name in rows:
        raise BadInput(f"external.{name}: a row has that name. Give the published one another.")
    if not isinstance(node, Mapping):
        raise BadInput(f"external.{name} must be a mapping with source and figures. Received: {node!r}.")
    return construct(PublishedRow, {"name": name, **node}, f"external.{name}")


def _changed(overrides: list[str]) -> str:
    """What the command line changes of an ablation, as the end of a name: such runs are another table's."""
    matter = sorted(word for word in overrides if word.lstrip("+~").partition(".")[0].partition("=")[0] not in _ASIDE)
    if not matter:
        return ""
    words = "-".join("".join(c if c.isalnum() or c in "=._" else "_" for c in word) for word in matter)
    return f"-{words}" if len(words) <= 60 else f"-{hashlib.sha256(words.encode()).hexdigest()[:12]}"
