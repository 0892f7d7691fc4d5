"""The table behind every output: a line for each row, with its statistics against the control."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lightexp.core.columns import COLUMNS, MISSING, MetricColumn
from lightexp.core.errors import BadInput, suggest_nearest
from lightexp.core.hypervolume import compute_tradeoff_hypervolume, find_front
from lightexp.report.runs import Run
from lightexp.report.statistics import (
    Difference,
    Summary,
    compare_paired,
    compute_mean_interval,
    correct_p_values,
    summarize,
)
from lightexp.report.table_spec import TableSpec

OWN = "control"
RATIO = {"size/file_bytes": "size/ratio", "size/encoded_bytes": "size/encoded_ratio"}
_STARS = ((0.001, "***"), (0.01, "**"), (0.05, "*"))


@dataclass(frozen=True)
class Cell:
    """One measurement of one row.

    Attributes:
        summary: Over the row's seeds; None where nothing was measured.
        difference: To the control.
        place: 1 for the column's best, 2 for its second, else 0.
    """

    summary: Summary | None = None
    difference: Difference | None = None
    place: int = 0

    @property
    def mark(self) -> str:
        """Stars for a significant difference, a dagger for one shown to be within the margin."""
        d = self.difference
        if d is None:
            return ""
        if d.within is not None:
            return "†" if d.within else ""
        return next((stars for limit, stars in _STARS if d.adjusted is not None and d.adjusted < limit), "")


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        name: The row's.
        kind: `control`, `row`, `external` (published elsewhere) or `refused` (it cannot run).
        seeds: Of its runs.
        cells: By measurement.
        note: The source of a published row, the reason of a refused one, what has become of waived invariants.
        front: Share of the seeds for which it is on the front of size and error; None where that is not known.
    """

    name: str
    kind: str
    seeds: tuple[int, ...]
    cells: Mapping[str, Cell]
    note: str = ""
    front: float | None = None

    @property
    def label(self) -> str:
        """The name, with the row's kind where the name does not say it."""
        kind = {"control": "control", "external": "published", "refused": "refused"}.get(self.kind, "")
        return self.name if kind in self.name else f"{self.name} ({kind})"


@dataclass(frozen=True)
class Report:
    """A table with all that its outputs show.

    Attributes:
        show: How it is to look; `show.columns` are those that it has.
        lines: The control first, then the rows in their order, then those that were refused, then published ones.
        runs: All of them.
        words: What a reviewer would ask.
        accuracy: The measurement of the error axis.
        size: The measurement of the size axis.
        hypervolume: Mean over seeds and its 95% interval; None where it cannot be computed.
        commands: The exact commands behind it.
        history: A study's hypervolume after each trial.
    """

    show: TableSpec
    lines: tuple[Row, ...]
    runs: tuple[Run, ...]
    accuracy: str
    size: str
    hypervolume: tuple[float, float, float] | None = None
    words: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    history: tuple[float, ...] = ()

    def heading(self, name: str) -> str:
        """A measurement's name for people."""
        return next((column.heading for column in (*self.show.columns, *COLUMNS) if column.name == name), name)


def is_ratio(name: str) -> bool:
    """Whether a measurement is a quotient, of which means are geometric."""
    return name.endswith("ratio")


def format_cell(column: MetricColumn, found: Summary | None) -> str:
    """A cell: the mean, and its spread where there is one."""
    if found is None:
        return MISSING
    words = column.format(found.mean)
    if is_ratio(column.name):
        return f"{words} ×/÷ {found.std:.2f}" if found.std and found.std > 1.005 else words
    if not found.std or column.format(found.std) == column.format(0.0):
        return words
    return f"{words} ± {column.format(found.std).rstrip('%x')}"


def build_summary(
    runs: Sequence[Run], show: TableSpec, refused: Mapping[str, str] | None = None, order: Sequence[str] = ()
) -> Report:
    """Summarises runs.

    Args:
        runs: At most one for each row and seed.
        show: How the table is to look.
        refused: Rows that cannot run, with the reason.
        order: Names of the rows as the table is to list them. Defaults to the order of the runs.

    Raises:
        BadInput: If there is nothing to report, or a column was never measured.
    """
    if not runs:
        raise BadInput(f"{show.title}: there is no finished run to report. Run it first: lightexp ablate or run.")
    rows: defaultdict[str, dict[int, Run]] = defaultdict(dict)
    for name in (name for name in order if any(run.row == name for run in runs)):
        rows[name] = {}
    for run in runs:
        rows[run.row][run.seed] = run
    measured = dict.fromkeys(name for run in runs for name in run.metrics)
    columns = show.columns or tuple(column for column in COLUMNS if column.name in measured)
    for one in columns:
        if one.name not in measured and not any(one.name in external.figures for external in show.external):
            raise BadInput(
                f"{show.title}: columns: no run has measured '{one.name}': {suggest_nearest(one.name, measured)}"
            )
    accuracy = "accuracy/test" if all("accuracy/test" in run.metrics for run in runs) else "accuracy/val"
    size = next(
        (c.name for c in columns if c.name.startswith("size/") and c.name.endswith("_bytes")), "size/file_bytes"
    )
    ratio = [name for name in (RATIO.get(size),) if name in measured]
    names = dict.fromkeys([*(column.name for column in columns), accuracy, size, *ratio])
    control = rows.get(show.control) if show.control else None
    neutral = {column.name for column in columns if column.direction is None}
    cells = {name: _cells(name, rows, control, show, name not in neutral) for name in names}
    fronts, volume = _fronts(rows, control, accuracy, size)
    lines = [
        Row(
            name,
            "control" if name == show.control else "row",
            tuple(sorted(of)),
            {c: cells[c][name] for c in cells},
            _waived(list(of.values())),
            fronts.get(name),
        )
        for name, of in rows.items()
    ]
    if control is None and (own := _own_control(runs, names)):
        lines.insert(0, own)
    lines.sort(key=lambda line: line.kind != "control")
    lines += [Row(name, "refused", (), {}, reason) for name, reason in (refused or {}).items()]
    lines += [
        Row(e.name, "external", (), {n: Cell(Summary(1, float(v), None)) for n, v in e.figures.items()}, e.source)
        for e in show.external
    ]
    ranked = _ranked(lines, columns)
    return Report(replace(show, columns=columns), ranked, tuple(runs), accuracy, size, volume)


def _cells(
    name: str, rows: Mapping[str, Mapping[int, Run]], control: Mapping[int, Run] | None, show: TableSpec, tested: bool
) -> dict[str, Cell]:
    """One column: each row's summary, and its difference to the control row, or to its runs' own controls.

    Only what is better one way is `tested`.
    """
    ratio = is_ratio(name)
    margin = show.margin / 100 if show.margin is not None and name.startswith("accuracy/") else None
    values = {row: _sound({seed: run.metrics.get(name) for seed, run in of.items()}, ratio) for row, of in rows.items()}
    differences: list[Difference | None] = []
    for row, of in rows.items():
        of_control = {s: r.metrics.get(name) for s, r in control.items()} if control is not None else None
        against = _sound(of_control or {s: r.control.get(name) for s, r in of.items()}, ratio)
        found = None if row == show.control else compare_paired(values[row], against, ratio, margin)
        differences.append(found if found is None or tested else replace(found, p=None))
    judged = correct_p_values(differences, margin is not None)
    return {
        row: Cell(summarize(list(of.values()), ratio) if of else None, judged[place])
        for place, (row, of) in enumerate(values.items())
    }


def _sound(values: Mapping[int, float | None], ratio: bool) -> dict[int, float]:
    return {s: v for s, v in values.items() if v is not None and math.isfinite(v) and not (ratio and v <= 0)}


def _waived(runs: Sequence[Run]) -> str:
    """What has become of waived invariants: with how many seeds each was broken, and how with the first of them."""
    found = []
    for kind in dict.fromkeys(kind for run in runs for kind in run.waived):
        said = [run.waived[kind] for run in runs if kind in run.waived]
        broken = [words for words in said if not all(part.endswith(": kept") for part in words.split("; "))]
        words = f"waived {kind}, broken with {len(broken)} of {len(said)} seeds"
        found.append(f"{words} ({broken[0]})" if broken else words)
    return "; ".join(found)


def _own_control(runs: Sequence[Run], names: Mapping[str, None]) -> Row | None:
    """The runs' own float32 control as a line, where all runs of one seed have the same one."""
    found: dict[int, dict[str, float]] = {}
    for run in runs:
        wanted = {n: run.control[n] for n in names if n in run.control and not n.startswith("latency/")}
        if found.setdefault(run.seed, wanted) != wanted:
            return None
    cells = {}
    for name in names:
        values = list(_sound({seed: of.get(name) for seed, of in found.items()}, is_ratio(name)).values())
        cells[name] = Cell(summarize(values, is_ratio(name)) if values else None)
    return Row(f"{OWN} (of the runs)", "control", tuple(sorted(found)), cells)


def _fronts(
    rows: Mapping[str, Mapping[int, Run]], control: Mapping[int, Run] | None, accuracy: str, size: str
) -> tuple[dict[str, float], tuple[float, float, float] | None]:
    """How often each row is on its seed's front, and the hypervolume over the seeds that every row has."""
    seeds = set.intersection(*(set(of) for of in rows.values()))
    on: defaultdict[str, int] = defaultdict(int)
    volumes: list[float] = []
    for seed in sorted(seeds):
        of = {name: runs[seed] for name, runs in rows.items()}
        points = {n: (r.metrics.get(size), r.metrics.get(accuracy)) for n, r in of.items()}
        sound = {n: (s, 1 - a) for n, (s, a) in points.items() if s and a is not None and math.isfinite(a)}
        for name, there in zip(sound, find_front(list(sound.values())), strict=True):
            on[name] += bool(there)
        one = next(iter(of.values()))
        reference = (control[seed].metrics if control else one.control).get("size/file_bytes")
        if sound and reference and one.classes > 1:
            sizes, errors = zip(*sound.values(), strict=True)
            volumes.append(compute_tradeoff_hypervolume(sizes, errors, reference, one.classes))
    shares = {name: on[name] / len(seeds) for name in rows} if seeds else {}
    return shares, compute_mean_interval(volumes) if volumes else None


def _ranked(lines: Sequence[Row], columns: Sequence[MetricColumn]) -> tuple[Row, ...]:
    places: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for column in columns:
        if column.direction is None:
            continue
        found = {
            line.name: cell.summary.mean
            for line in lines
            if line.kind in ("control", "row") and (cell := line.cells.get(column.name)) and cell.summary
        }
        best = sorted(set(found.values()), reverse=column.direction == "max")[:-1][:2]  # the worst is no second
        for name, value in found.items():
            shared = list(found.values()).count(value)
            if value in best and 2 * shared <= len(found):  # what most have is no distinction
                places[name][column.name] = best.index(value) + 1
    return tuple(
        replace(line, cells={n: replace(c, place=places[line.name].get(n, 0)) for n, c in line.cells.items()})
        if line.kind in ("control", "row")
        else line
        for line in lines
    )
