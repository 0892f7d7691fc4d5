"""Build a report from runs: rows, statistics against the control, fronts and ranks."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from lightexp.core import latency_quality
from lightexp.core.columns import MetricColumn
from lightexp.core.errors import BadInput, suggest_nearest
from lightexp.core.hypervolume import compute_tradeoff_hypervolume, find_front
from lightexp.core.primary_metric import PrimaryMetric
from lightexp.report.column_choice import RATIO_OF, choose_columns, select_paper_columns, select_size_metric
from lightexp.report.data import MetricStatistics, Report, ReportRow, is_ratio
from lightexp.report.labels import label_rows
from lightexp.report.runs import Run, make_no_runs_error
from lightexp.report.statistics import (
    Summary,
    compare_samples,
    compute_mean_interval,
    correct_p_values,
    summarize,
    summarize_samples,
)
from lightexp.report.table_spec import PublishedRow, TableSpec

OWN_CONTROL = "control (of the runs)"


@dataclass(frozen=True)
class _RunGrid:
    """Runs by row and seed, with the metrics of the report's two axes.

    Attributes:
        rows: Runs by row and seed, in the report's order.
        control: Runs of the control row; None where each run is compared with its own control.
        primary: The metric that the rows are judged by.
        quality: Its name with the split that is shown.
        size: Metric of the size axis.
    """

    rows: Mapping[str, Mapping[int, Run]]
    control: Mapping[int, Run] | None
    primary: PrimaryMetric
    quality: str
    size: str


def build_summary(
    runs: Sequence[Run], spec: TableSpec, refused: Mapping[str, str] | None = None, order: Sequence[str] = ()
) -> Report:
    """Build the report of some runs.

    Args:
        runs: At most one run for each row and seed.
        spec: What the report shows.
        refused: Rows that cannot run, with the reason.
        order: Names of the rows in the table's order. Defaults to the order of the runs.

    Raises:
        BadInput: If there are no runs, or no run has measured one of the columns.
    """
    if not runs:
        raise make_no_runs_error(spec.title, ())
    measured = dict.fromkeys(name for run in runs for name in run.metrics)
    primary = _find_primary(runs, spec)
    columns = spec.columns or choose_columns(measured, primary, spec.first)
    _check_measured(columns, measured, spec)
    rows = _group_by_row(runs, order)
    on_test = all(f"{primary.name}/test" in run.metrics for run in runs)
    grid = _RunGrid(
        rows,
        control=rows.get(spec.control) if spec.control else None,
        primary=primary,
        quality=f"{primary.name}/{'test' if on_test else 'val'}",
        size=select_size_metric(columns),
    )
    ratio = RATIO_OF.get(grid.size)
    names = list(dict.fromkeys([*(column.name for column in columns), grid.quality, grid.size]))
    if ratio in measured and ratio not in names:
        names.append(ratio)
    undirected = {column.name for column in columns if column.direction is None}
    statistics = {name: _compute_column(name, grid, spec, name not in undirected) for name in names}
    fronts, hypervolume = _compute_fronts(grid, spec.infeasible)
    report_rows = _build_rows(grid, statistics, fronts, spec)
    own_control = _build_own_control(runs, names) if grid.control is None else None
    if own_control:
        report_rows.insert(0, own_control)
    return Report(
        spec=replace(spec, columns=columns),
        rows=_rank(_complete_rows(report_rows, spec, refused or {}), columns),
        runs=tuple(runs),
        primary=primary,
        quality=grid.quality,
        size=grid.size,
        hypervolume=hypervolume,
        paper_columns=spec.columns or select_paper_columns(columns, grid.quality, grid.size, statistics),
    )


def _complete_rows(rows: Sequence[ReportRow], spec: TableSpec, refused: Mapping[str, str]) -> list[ReportRow]:
    """Return the control, the other rows, refused ones and published ones, with their titles."""
    complete = sorted(rows, key=lambda row: row.kind != "control")
    complete += [ReportRow(name, "refused", note=reason) for name, reason in refused.items()]
    complete += [_build_published(row) for row in spec.external]
    titles = label_rows([row.name for row in complete], spec.labels)
    return [replace(row, title=titles[row.name]) for row in complete]


def _find_primary(runs: Sequence[Run], spec: TableSpec) -> PrimaryMetric:
    """Return the primary metric of the first run.

    Raises:
        BadInput: If another run is judged by another metric.
    """
    names = list(dict.fromkeys(run.primary.name for run in runs))
    if len(names) > 1:
        raise BadInput(
            f"{spec.title}: the runs are judged by different metrics: {', '.join(names)}. Report each task on its own."
        )
    return runs[0].primary


def _build_rows(
    grid: _RunGrid,
    statistics: Mapping[str, Mapping[str, MetricStatistics]],
    fronts: Mapping[str, float],
    spec: TableSpec,
) -> list[ReportRow]:
    """Return the rows that have runs.

    Args:
        grid: The runs.
        statistics: Statistics by metric and row.
        fronts: Share of the seeds on the front by row.
        spec: Names the control and the infeasible rows.
    """
    kinds: dict[str | None, Literal["control", "infeasible"]] = dict.fromkeys(spec.infeasible, "infeasible")
    kinds[spec.control] = "control"
    rows = []
    for name, runs in grid.rows.items():
        doubts = latency_quality.list_row_doubts([run.metrics for run in runs.values()])
        marked = latency_quality.TIMES if doubts else ()
        rows.append(
            ReportRow(
                name=name,
                kind=kinds.get(name, "row"),
                seeds=tuple(sorted(runs)),
                metrics={
                    n: replace(column[name], is_doubtful=True) if n in marked else column[name]
                    for n, column in statistics.items()
                },
                note=_describe_waived(list(runs.values())),
                front=fronts.get(name),
                doubts=tuple(doubts),
            )
        )
    return rows


def _check_measured(columns: Sequence[MetricColumn], measured: Iterable[str], spec: TableSpec) -> None:
    """Raise BadInput for a column that no run and no published row has."""
    available = set(measured).union(*(external.figures for external in spec.external))
    for column in columns:
        if column.name not in available:
            hint = suggest_nearest(column.name, measured)
            raise BadInput(f"{spec.title}: columns: no run has measured '{column.name}': {hint}")


def _group_by_row(runs: Sequence[Run], order: Sequence[str]) -> dict[str, dict[int, Run]]:
    """Return the runs by row and seed: first the rows of `order` that have runs, then the others."""
    with_runs = {run.row for run in runs}
    rows: defaultdict[str, dict[int, Run]] = defaultdict(dict)
    for name in order:
        if name in with_runs:
            rows[name] = {}
    for run in runs:
        rows[run.row][run.seed] = run
    return dict(rows)


def _compute_column(name: str, grid: _RunGrid, spec: TableSpec, tested: bool) -> dict[str, MetricStatistics]:
    """Return each row's statistics of one metric, compared with the control row or with its runs' own controls.

    Args:
        name: Name of the metric.
        grid: The runs.
        spec: Names the control and the margin.
        tested: Whether differences get p values; only metrics that are better one way do.
    """
    ratio = is_ratio(name)
    margin = None
    if spec.margin is not None and name.startswith(f"{grid.primary.name}/"):
        margin = spec.margin / grid.primary.factor
    control_values = None
    if grid.control is not None:
        control_values = {seed: run.metrics.get(name) for seed, run in grid.control.items()}
    values: dict[str, dict[int, float]] = {}
    pairs: list[tuple[Mapping[int, float], Mapping[int, float]]] = []
    for row, runs in grid.rows.items():
        values[row] = _select_valid({seed: run.metrics.get(name) for seed, run in runs.items()}, ratio)
        reference = control_values or {seed: run.control.get(name) for seed, run in runs.items()}
        pairs.append((values[row], _select_valid(reference, ratio) if row != spec.control else {}))
    worse: Literal["lower", "higher"] = "lower" if grid.primary.direction == "max" else "higher"
    differences = compare_samples(pairs, ratio, margin, worse)
    if not tested:
        differences = [None if difference is None else replace(difference, p=None) for difference in differences]
    corrected = correct_p_values(differences, margin is not None)
    measured = {row: list(by_seed.values()) for row, by_seed in values.items() if by_seed}
    summaries = dict(zip(measured, summarize_samples(list(measured.values()), ratio), strict=True))
    return {
        row: MetricStatistics(summaries.get(row), difference) for row, difference in zip(values, corrected, strict=True)
    }


def _select_valid(values: Mapping[int, float | None], ratio: bool) -> dict[int, float]:
    """Return the values that can be averaged: finite ones, and positive ones for ratios."""
    return {
        seed: value
        for seed, value in values.items()
        if value is not None and math.isfinite(value) and not (ratio and value <= 0)
    }


def _describe_waived(runs: Sequence[Run]) -> str:
    """Return for how many seeds each waived invariant was broken, and how for the first of them."""
    descriptions = []
    for kind in dict.fromkeys(kind for run in runs for kind in run.waived):
        outcomes = [run.waived[kind] for run in runs if kind in run.waived]
        broken = [text for text in outcomes if not all(part.endswith(": kept") for part in text.split("; "))]
        description = f"waived {kind}, broken with {len(broken)} of {len(outcomes)} seeds"
        descriptions.append(f"{description} ({broken[0]})" if broken else description)
    return "; ".join(descriptions)


def _build_own_control(runs: Sequence[Run], names: Sequence[str]) -> ReportRow | None:
    """Return the runs' own float32 control as a row, or None where runs of one seed have different controls."""
    by_seed: dict[int, dict[str, float]] = {}
    for run in runs:
        metrics = {n: run.control[n] for n in names if n in run.control and not latency_quality.is_latency(n)}
        if by_seed.setdefault(run.seed, metrics) != metrics:
            return None
    statistics = {}
    for name in names:
        ratio = is_ratio(name)
        values = list(_select_valid({seed: metrics.get(name) for seed, metrics in by_seed.items()}, ratio).values())
        statistics[name] = MetricStatistics(summarize(values, ratio) if values else None)
    return ReportRow(OWN_CONTROL, "control", tuple(sorted(by_seed)), statistics)


def _build_published(row: PublishedRow) -> ReportRow:
    statistics = {name: MetricStatistics(Summary(1, float(value), None)) for name, value in row.figures.items()}
    return ReportRow(row.name, "external", metrics=statistics, note=row.source)


def _compute_fronts(
    grid: _RunGrid, infeasible: Container[str]
) -> tuple[dict[str, float], tuple[float, float, float] | None]:
    """Return each feasible row's share of seeds on the front, and the hypervolume over the seeds that all these have.

    The hypervolume is its mean and the ends of its 95% interval; None where it cannot be computed.
    """
    rows = {name: runs for name, runs in grid.rows.items() if name not in infeasible}
    seeds = set.intersection(*(set(runs) for runs in rows.values())) if rows else set()
    counts: defaultdict[str, int] = defaultdict(int)
    hypervolumes: list[float] = []
    for seed in sorted(seeds):
        points = {}
        for name, runs in rows.items():
            size, quality = runs[seed].metrics.get(grid.size), runs[seed].metrics.get(grid.quality)
            if size and quality is not None and math.isfinite(quality):
                points[name] = size, runs[seed].primary.to_error(quality)
        for name, is_on_front in zip(points, find_front(list(points.values())), strict=True):
            counts[name] += bool(is_on_front)
        first = next(iter(rows.values()))[seed]
        control = grid.control[seed].metrics if grid.control else first.control
        control_size = control.get("size/file_bytes" if grid.size.endswith("_bytes") else grid.size)
        reference_error = first.primary.reference_error
        if points and control_size and reference_error is not None:
            sizes, errors = zip(*points.values(), strict=True)
            hypervolumes.append(compute_tradeoff_hypervolume(sizes, errors, control_size, reference_error))
    shares = {name: counts[name] / len(seeds) for name in rows} if seeds else {}
    return shares, compute_mean_interval(hypervolumes) if hypervolumes else None


def _rank(rows: Sequence[ReportRow], columns: Sequence[MetricColumn]) -> tuple[ReportRow, ...]:
    """Return the rows with the best and the second of each column ranked.

    The worst value is never second, and a value that more than half of the rows share is not ranked.
    """
    ranks: defaultdict[str, dict[str, int]] = defaultdict(dict)
    own = [row for row in rows if row.kind in ("control", "row")]
    for column in columns:
        if column.direction is None:
            continue
        means = {row.name: mean for row in own if (mean := row.metric(column.name).mean) is not None}
        shared = Counter(means.values())
        best = sorted(shared, reverse=column.direction == "max")[:-1][:2]
        for name, mean in means.items():
            if mean in best and 2 * shared[mean] <= len(means):
                ranks[name][column.name] = best.index(mean) + 1
    ranked = []
    for row in rows:
        if row.kind in ("control", "row") and row.name in ranks:
            changed = {name: replace(row.metrics[name], rank=rank) for name, rank in ranks[row.name].items()}
            row = replace(row, metrics={**row.metrics, **changed})
        ranked.append(row)
    return tuple(ranked)
