"""An ablation's file: a claim, rows and seeds, and the layout of the table."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from io import StringIO
from pathlib import Path
from typing import Annotated, Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import Field
from yaml import YAMLError  # type: ignore[import-untyped]

from lightexp.ablation.planners import expand_rows
from lightexp.ablation.rows import AblationRow
from lightexp.core.config import construct, settings_dataclass
from lightexp.core.errors import BadInput, suggest_nearest
from lightexp.core.regular_files import read_text
from lightexp.core.yaml_text import check_yaml, explain_yaml_error
from lightexp.report.table_spec import Presentation, PublishedRow, TableSpec, split_presentation

_OUTSIDE_ROWS = ("paths", "store", "tracking", "measure", "hydra")
"""Config groups whose overrides do not change what a row is."""
_THREADS = "runtime.threads=1"
"""Override that comes before `base`: the results of a row must not depend on the host's cores or on other workers."""
_MAX_NAME_LENGTH = 60


@settings_dataclass
class AblationFile(Presentation):
    """An ablation's file, checked; its layout is described by `Presentation`.

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
    """

    claim: Annotated[str, Field(min_length=1)]
    control: str
    seeds: Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1)]
    rows: Annotated[dict[str, Any], Field(min_length=1)]
    reference: str = ""
    cost: str = ""
    base: list[str] = field(default_factory=list)
    external: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
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
        overrides: Overrides of the command line; they come after the file's `base` and before each row's own. Settings
            of `Presentation` among them replace the file's.

    Raises:
        BadInput: For the first mistake in the file, with its place.
    """
    shown, overrides = split_presentation(overrides)
    values = _load_yaml(path)
    for name, value in shown.items():
        is_entry = isinstance(value, dict) and isinstance(values.get(name), dict)
        values[name] = {**values[name], **value} if is_entry else value
    try:
        file = construct(AblationFile, values, "")
        rows = expand_rows(file.rows, [_THREADS, *file.base, *overrides])
        names = [row.name for row in rows]
        if file.control not in names:
            raise BadInput(f"control: no row is named '{file.control}'. The rows are: {', '.join(names)}.")
        if refused := next(row.refused for row in rows if row.name == file.control):
            raise BadInput(f"control: '{file.control}' cannot run: {refused}")
        external = tuple(_parse_published(name, node, names) for name, node in file.external.items())
        if unknown := next((name for name in file.labels if name not in [*names, *file.external]), None):
            raise BadInput(f"labels: no row is named '{unknown}': {suggest_nearest(unknown, names)}")
        labels = {row.name: row.label for row in rows if row.label} | file.labels
        show = replace(
            file.fill_spec(title=path.stem, claim=file.claim, reference=file.reference, cost=file.cost),
            control=file.control,
            external=external,
            labels=labels,
        )
    except BadInput as error:
        raise BadInput(f"{path}: {str(error).removeprefix(': ')}") from None
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
        raise explain_yaml_error(path, error) from None
    if not isinstance(values, dict) or not values:
        raise BadInput(f"{path} must be a mapping with claim, control, seeds and rows. Received: {values!r:.60}.")
    return {str(name): value for name, value in values.items()}


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
