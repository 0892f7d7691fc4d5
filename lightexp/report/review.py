"""Check a report as a reviewer would, after Blalock et al. 2020 (arXiv 2003.03033) and the NeurIPS checklist."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from lightexp.core.errors import BadInput
from lightexp.core.latency_quality import TIMES, is_latency
from lightexp.report.data import Report
from lightexp.report.labels import join_names
from lightexp.report.runs import Run
from lightexp.report.table_spec import TableSpec

MIN_SEEDS, MIN_OPERATING_POINTS = 3, 5
_MAX_QUESTIONS = 20  # of one kind
_TRAIN, _ENCODE = "lightexp.stages.train.Train", "lightexp.stages.encode.Encode"


def check_comparable(runs: Sequence[Run], title: str) -> None:
    """Check that all runs were measured on the same data by the same versions of the evaluators.

    Args:
        runs: The runs of one table.
        title: Title of the table, for messages.

    Raises:
        BadInput: If they were not; says how many runs differ and how to choose.
    """
    data = Counter(run.data for run in runs)
    if len(data) > 1:
        names = sorted({identity[0] for identity in data})
        counts = " and ".join(f"{count} runs of {identity[0]}" for identity, count in data.most_common(4))
        choice = f"only={names[0]}" if len(names) > 1 else "the runs of one state of the data"
        raise BadInput(f"{title}: the runs saw different data ({counts}), so they are not compared. Choose {choice}.")
    counts_by_id = Counter(id(run.versions) for run in runs)  # equal versions are mostly one object
    versions_by_metric: dict[str, Counter[int]] = {}
    for identity, versions_of_runs in {id(run.versions): run.versions for run in runs}.items():
        for name, version in versions_of_runs.items():
            if is_latency(name):
                continue  # left to `drop_incomparable_latency`
            versions_by_metric.setdefault(name, Counter())[version] += counts_by_id[identity]
    for name, versions in versions_by_metric.items():
        if len(versions) > 1:
            counts = " and ".join(f"version {version} ({count} runs)" for version, count in sorted(versions.items()))
            raise BadInput(
                f"{title}: {name} was measured by different evaluators, {counts}, so it is not compared. "
                "Run the older ones again."
            )


def drop_incomparable_latency(runs: Sequence[Run], spec: TableSpec) -> tuple[list[Run], TableSpec, list[str]]:
    """Leave latency out where it was measured on several hosts, or by several versions of the measurement.

    Args:
        runs: The runs of one table.
        spec: What the report shows.

    Returns:
        The runs and the specification, without latency where it is not compared, and a line that says so or none.
    """
    hosts = sorted({run.timed_on for run in runs if any(map(is_latency, run.metrics))})
    versions = sorted({str(v) for run in runs for name, v in run.versions.items() if is_latency(name)})
    if len(hosts) > 1:
        reason = f"it was measured on several hosts ({', '.join(hosts)}), which are not compared"
    elif len(versions) > 1:
        reason = f"it was measured by versions {' and '.join(versions)} of the measurement, which are not compared"
    else:
        return list(runs), spec, []
    columns = tuple(column for column in spec.columns if not is_latency(column.name))
    runs = [replace(run, metrics=_drop_latency(run.metrics), control=_drop_latency(run.control)) for run in runs]
    return list(runs), replace(spec, columns=columns), [f"latency is left out: {reason}"]


def _drop_latency(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if not is_latency(name)}


def list_questions(report: Report) -> list[str]:
    """Return the questions that a report leaves open, one line each."""
    checks = (_check_seeds, _check_design, _check_test_split, _check_waived, _check_latency)
    return [question for check in checks for question in _limit(list(check(report)))]


def _limit(questions: list[str]) -> list[str]:
    """Return the first questions of one kind, and the number of the others."""
    left_out = len(questions) - _MAX_QUESTIONS
    return questions if left_out <= 1 else [*questions[:_MAX_QUESTIONS], f"{left_out:,} more of this kind"]


def _check_seeds(report: Report) -> Iterator[str]:
    """Yield what is missing among the seeds."""
    rows = [row for row in report.rows if row.kind == "row" or (row.kind == "control" and row.seeds)]
    most_seeds = max((row.seeds for row in rows), key=len)
    few = [row.title for row in rows if len(row.seeds) < MIN_SEEDS]
    if few:
        yield f"fewer than {MIN_SEEDS} seeds, too few to estimate a spread: {join_names(few)}"
    for row in rows:
        if missing := sorted(set(most_seeds) - set(row.seeds)):
            yield f"'{row.title}' has no run with seed {', '.join(map(str, missing))}, which other rows have"


def _check_design(report: Report) -> Iterator[str]:
    """Yield what is missing among the operating points, the controls and the columns."""
    means = [row.metric(report.size).mean for row in report.rows if row.kind == "row"]
    sizes = {round(mean, 6) for mean in means if mean is not None}
    if len(sizes) < MIN_OPERATING_POINTS:
        yield f"fewer than {MIN_OPERATING_POINTS} operating points: {len(sizes)} different sizes besides the control"
    if any(_trains_after_control(run) for run in report.runs) and not any(_is_equal_budget(run) for run in report.runs):
        yield "rows train longer than their control, and no row has that budget without compression (equal_budget)"
    names = [column.name for column in report.spec.columns]
    if any(name.startswith("size/") for name in names) and not any("macs" in name for name in names):
        yield "sizes are shown without MACs: add compute/macs to the columns"


def _check_test_split(report: Report) -> Iterator[str]:
    """Yield the objectives of studies that looked at the test split."""
    objectives = {objective for run in report.runs for objective in _list_objectives(run)}
    for objective in sorted(objectives):
        if objective.endswith("/test"):
            yield f"a choice was made on test: the study's objective was {objective}"


def _check_waived(report: Report) -> Iterator[str]:
    """Yield the rows that were allowed to break an invariant."""
    for row in report.rows:
        if row.note and row.kind not in ("external", "refused"):
            yield f"'{row.title}' was allowed to break an invariant: {row.note}"


def _check_latency(report: Report) -> Iterator[str]:
    """Yield the rows whose latency is shown and cannot be trusted."""
    if any(column.name in TIMES for column in report.spec.columns):
        for row in report.rows:
            if row.doubts:
                yield f"the latency of '{row.title}' is doubtful: {'; '.join(row.doubts)}"


def _trains_after_control(run: Run) -> bool:
    """Whether a stage that compresses also trains."""
    return any(stage.history for stage in run.stages[1:]) and not _is_equal_budget(run)


def _is_equal_budget(run: Run) -> bool:
    """Whether the run trains in several stages without compressing."""
    targets = [target for target in _list_stage_targets(run) if target != _ENCODE]
    return len(targets) > 1 and all(target == _TRAIN for target in targets)


def _list_stage_targets(run: Run) -> list[str]:
    """Return the class names of the pipeline's stages."""
    return [
        value
        for name, value in run.settings.items()
        if name.startswith("pipeline.stages.") and name.count(".") == 3 and "_target_" in name
    ]


def _list_objectives(run: Run) -> list[str]:
    """Return the names within the objectives of the run's study."""
    values = [value for name, value in run.settings.items() if name.startswith("search.objectives")]
    return [part for value in values for part in value.replace('"', " ").split()]
