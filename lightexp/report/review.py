"""What a reviewer would ask of a table, after Blalock et al. 2020 (arXiv 2003.03033) and the NeurIPS checklist."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from lightexp.core.errors import BadInput
from lightexp.report.runs import Run
from lightexp.report.summary import Report
from lightexp.report.table_spec import TableSpec

SEEDS, POINTS = 3, 5
_TRAIN, _ENCODE = "lightexp.stages.train.Train", "lightexp.stages.encode.Encode"


def check_comparable(runs: Sequence[Run], title: str) -> None:
    """Refuses to put into one table what was measured on different data or by different evaluators.

    Raises:
        BadInput: If it was; says of how many runs, and how to choose.
    """
    data = Counter(run.data for run in runs)
    if len(data) > 1:
        names = sorted({one[0] for one in data})
        words = " and ".join(f"{n} runs of {one[0]}" for one, n in data.most_common(4))
        choose = f"only={names[0]}" if len(names) > 1 else "the runs of one state of the data"
        raise BadInput(f"{title}: the runs saw different data ({words}), so they are not compared. Choose {choose}.")
    seen: dict[str, Counter[int]] = {}
    for run in runs:
        for name, version in run.versions.items():
            seen.setdefault(name, Counter())[version] += 1
    for name, versions in seen.items():
        if len(versions) > 1:
            words = " and ".join(f"version {v} ({n} runs)" for v, n in sorted(versions.items()))
            raise BadInput(
                f"{title}: {name} was measured by different evaluators, {words}, so it is not compared. "
                "Run the older ones again."
            )


def without_foreign_latency(runs: Sequence[Run], show: TableSpec) -> tuple[list[Run], TableSpec, list[str]]:
    """Leaves latency out where it was measured on several hosts, and says so."""
    hosts = sorted({run.timed_on for run in runs if any(name.startswith("latency/") for name in run.metrics)})
    if len(hosts) < 2:
        return list(runs), show, []

    def kept(figures: dict[str, float]) -> dict[str, float]:
        return {name: value for name, value in figures.items() if not name.startswith("latency/")}

    words = f"latency is left out: it was measured on several hosts ({', '.join(hosts)}), which are not compared"
    columns = tuple(column for column in show.columns if not column.name.startswith("latency/"))
    fewer = [replace(run, metrics=kept(run.metrics), control=kept(run.control)) for run in runs]
    return fewer, replace(show, columns=columns), [words]


def questions(report: Report) -> list[str]:
    """The questions that a table leaves open, a line each."""
    return [*_of_seeds(report), *_of_design(report), *_of_test(report), *_of_waived(report)]


def _of_seeds(report: Report) -> Iterator[str]:
    lines = [line for line in report.lines if line.kind == "row" or (line.kind == "control" and line.seeds)]
    most = max((line.seeds for line in lines), key=len)
    if few := [line.name for line in lines if len(line.seeds) < SEEDS]:
        yield f"fewer than {SEEDS} seeds, so no spread to speak of: {_listed(few)}"
    for line in lines:
        if missing := sorted(set(most) - set(line.seeds)):
            yield f"'{line.name}' has no run with seed {', '.join(map(str, missing))}, which others have"


def _of_design(report: Report) -> Iterator[str]:
    points = {
        round(cell.summary.mean, 6)
        for line in report.lines
        if line.kind == "row" and (cell := line.cells[report.size]).summary is not None
    }
    if len(points) < POINTS:
        yield f"fewer than {POINTS} operating points: {len(points)} different sizes beside the control"
    if any(_tunes(run) for run in report.runs) and not any(_equal_budget(run) for run in report.runs):
        yield "rows train longer than their control, and no row has that budget without compression (equal_budget)"
    names = [column.name for column in report.show.columns]
    if any(name.startswith("size/") for name in names) and not any("macs" in name for name in names):
        yield "bytes stand there without MACs: add compute/macs to the columns"


def _of_test(report: Report) -> Iterator[str]:
    for objective in sorted({o for run in report.runs for o in _objectives(run) if o.endswith("/test")}):
        yield f"a choice was made on test: the study's objective was {objective}"


def _of_waived(report: Report) -> Iterator[str]:
    for line in report.lines:
        if line.note and line.kind not in ("external", "refused"):
            yield f"'{line.name}' was told to break something: {line.note}"


def _targets(run: Run) -> list[str]:
    return [
        v for k, v in run.settings.items() if k.startswith("pipeline.stages.") and k.count(".") == 3 and "_target_" in k
    ]


def _tunes(run: Run) -> bool:
    """Whether a stage that compresses trains."""
    return any(step.history for step in run.steps[1:]) and not _equal_budget(run)


def _equal_budget(run: Run) -> bool:
    targets = [target for target in _targets(run) if target != _ENCODE]
    return len(targets) > 1 and all(target == _TRAIN for target in targets)


def _objectives(run: Run) -> list[str]:
    return [
        word
        for k, v in run.settings.items()
        if k.startswith("search.objectives")
        for word in v.replace('"', " ").split()
    ]


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:6])
    return shown if len(names) <= 6 else f"{shown} and {len(names) - 6} more"
