"""An ablation's file: a claim, rows and seeds, and the layout of the table."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, Literal

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import Field
from yaml import YAMLError  # type: ignore[import-untyped]

from lightexp.ablation.planners import expand_rows
from lightexp.ablation.rows import AblationRow
from lightexp.core.columns import MetricColumn
from lightexp.core.config import Positive, construct, settings_dataclass
from lightexp.core.errors import BadInput
from lightexp.core.regular_files import read_text
from lightexp.core.yaml_text import check_yaml
from lightexp.report.table_spec import PublishedRow, TableSpec, parse_column

_OUTSIDE_ROWS = ("paths", "tracking", "measure", "hydra")
"""Config groups whose overrides do not change what a row is."""
_THREADS = "runtime.threads=1"
"""Override that comes before `base`: the results of a row must not depend on the host's cores or on other workers."""
_MAX_NAME_LENGTH = 60


@settings_dataclass
class AblationFile:
    """An ablation's file, checked.

    Attributes:
        claim: What the table shows, in a sentence or two.
        control: The name of the row that the others are compared with.
        seeds: The seeds that every row runs with.
        rows: By name, a list of overrides or a planner; see `lightexp.ablation.planners`.
        reference: The publication of the claim or its figures. Defaults to none.
        cost: How long it takes, such as `25 minutes on two cores`. Defaults to no mention.
        base: Overrides that all rows share. Defaults to none. `runtime.threads=N` computes each run with N threads
            instead of one.
        external: Published metrics by row, each `{source: text, figures: {metric: value}}`; shown, never tested.
        columns: Metrics of the table, or `{measurement, heading, format, direction}` of each. The first that is a size
            in bytes (`size/...`) or `npu/<target>/cycles` is the horizontal axis of plots. Defaults to the usual ones.
        margin: How much worse than the control a row may be and still count as no worse: percentage points of accuracy,
            or the unit of another primary metric. Defaults to None: differences are tested, not non-inferiority.
        figures: The plots. Defaults to all that have data.
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
            raise ValueError(f"seeds: {repeated[0]} is listed twice. Received: {self.seeds}. Name each seed once.")


@dataclass(frozen=True)
class AblationSpec:
    """An ablation, ready to be planned or reported.

    Attributes:
        path: The file.
        name: The file's stem, and what the command line changes of the rows.
        rows: The rows, in the table's order.
        seeds: The seeds that every row runs with.
        show: The layout of the table.
    """

    path: Path
    name: str
    rows: tuple[AblationRow, ...]
    seeds: tuple[int, ...]
    show: TableSpec

    @property
    def results(self) -> Path:
        """The folder of the report."""
        return self.path.parent / "results" / self.name


def read_spec(path: Path, overrides: list[str]) -> AblationSpec:
    """Read an ablation's file and expand its rows.

    Args:
        path: The file.
        overrides: Overrides of the command line; they come after the file's `base` and before each row's own.

    Raises:
        BadInput: For the first mistake in the file, with its place.
    """
    values = _load_yaml(path)
    try:
        file = construct(AblationFile, values, "")
        rows = expand_rows(file.rows, [_THREADS, *file.base, *overrides])
        names = [row.name for row in rows]
        if file.control not in names:
            raise BadInput(f"control: no row is named '{file.control}'. The rows are: {', '.join(names)}.")
        if refused := next(row.refused for row in rows if row.name == file.control):
            raise BadInput(f"control: '{file.control}' cannot run: {refused}")
        external = tuple(_parse_published(name, node, names) for name, node in file.external.items())
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
    return AblationSpec(path, path.stem + _make_name_suffix(overrides), rows, tuple(file.seeds), show)


def _load_yaml(path: Path) -> dict[str, Any]:
    try:
        text = read_text(path)
        check_yaml(text)
        values = OmegaConf.to_container(OmegaConf.load(StringIO(text)), resolve=False)
    except FileNotFoundError:
        raise BadInput(
            f"{path} does not exist. Name an ablation's file, such as experiments/01_article.yaml."
        ) from None
    except (OSError, ValueError, YAMLError, OmegaConfBaseException) as error:
        raise BadInput(f"{path} cannot be read as YAML: {_summarize_yaml_error(error)}.") from None
    if not isinstance(values, dict) or not values:
        raise BadInput(f"{path} must be a mapping with claim, control, seeds and rows. Received: {values!r:.60}.")
    return {str(name): value for name, value in values.items()}


def _summarize_yaml_error(error: Exception) -> str:
    if isinstance(error, OSError):
        return str(error.strerror)
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    return f"{problem} in line {mark.line + 1}" if mark else str(problem).rstrip(".")


def _parse_published(name: str, node: Any, rows: list[str]) -> PublishedRow:
    if name in rows:
        raise BadInput(f"external.{name}: a row has that name. Give the published one another.")
    if not isinstance(node, Mapping):
        raise BadInput(f"external.{name} must be a mapping with source and figures. Received: {node!r}.")
    return construct(PublishedRow, {"name": name, **node}, f"external.{name}")


def _make_name_suffix(overrides: list[str]) -> str:
    """Return the end of the ablation's name for overrides that change its rows: their runs are another table's."""
    groups = {text: text.lstrip("+~").partition(".")[0].partition("=")[0] for text in overrides}
    changes = sorted(text for text in overrides if groups[text] not in _OUTSIDE_ROWS)
    if not changes:
        return ""
    suffix = "-".join("".join(c if c.isalnum() or c in "=._" else "_" for c in text) for text in changes)
    if len(suffix) > _MAX_NAME_LENGTH:
        suffix = hashlib.sha256(suffix.encode()).hexdigest()[:12]
    return f"-{suffix}"
