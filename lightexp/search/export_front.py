"""Export of a study's front: each point tested once and written as a config file, with a table, plots and data."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from lightexp.core.columns import build_metric_cells, find_column, list_doubtful_rows, list_footnotes
from lightexp.core.errors import LightexpError
from lightexp.core.formatting import escape_markdown
from lightexp.core.json_text import encode_json
from lightexp.core.latency_quality import TIMES
from lightexp.core.protocols import TFLITE
from lightexp.core.record import Record, read_record
from lightexp.core.records import FRONT_FILE
from lightexp.core.regular_files import replace_file
from lightexp.core.store import Store
from lightexp.core.table import Table, TableCell, TableColumn, TableRow, render_markdown
from lightexp.runner.primary_config import write_primary_config
from lightexp.runner.run import Runner
from lightexp.search import parameter_plots, plots
from lightexp.search.feasibility import build_tally_table, list_advice, tally_constraints
from lightexp.search.outcome import read_chance, read_outcome
from lightexp.search.picks import choose_picks, name_picks
from lightexp.search.ranges import shorten_setting
from lightexp.search.study import SearchStudy
from lightexp.search.study_spec import StudySpec
from lightexp.search.study_status import StudyStatus

TABLE = "front.md"
_TABLE_METRICS = ("size/file_bytes", "size/ratio")


@dataclass(frozen=True)
class FrontPoint:
    """A trial of the front.

    Attributes:
        number: The trial's number.
        varied: The overrides that the study has set.
        metrics: The shipped file's metrics, those of the test split included once it has been tested.
    """

    number: int
    varied: list[str]
    metrics: dict[str, float]


@dataclass(frozen=True)
class TestedPoint(FrontPoint):
    """A trial of the front that has been tested.

    Attributes:
        config: The config file that repeats the trial.
        model: The file that would ship.
        command: The command that repeats the trial.
    """

    __test__ = False  # pytest collects no test from it
    config: Path
    model: Path
    command: str


def list_front_points(status: StudyStatus) -> list[FrontPoint]:
    """Return the front as its trials have left it, without the test split."""
    outcomes = [(trial.number, read_outcome(trial)) for trial in status.front]
    return [FrontPoint(number, outcome.varied, outcome.metrics) for number, outcome in outcomes]


def export_front(study: SearchStudy, status: StudyStatus, runner: Runner, command: list[str]) -> list[TestedPoint]:
    """Test the trials of the front that have not been tested, and write the study's results into its folder.

    Args:
        study: The study.
        status: Its status.
        runner: Runs the test; trained stages come from the store.
        command: The study's command, for the records.

    Raises:
        LightexpError: If a trial cannot be repeated.
    """
    points = [_export_point(study, trial, runner, command) for trial in status.front]
    replace_file(study.folder / TABLE, f"{_render_tables(study.spec, status, points, command)}\n".encode())
    importance = study.compute_importance()
    _draw_plots(study, status, importance)
    _write_data(study, status, importance, points)
    return points


def _render_tables(spec: StudySpec, status: StudyStatus, points: Sequence[FrontPoint], command: list[str]) -> str:
    """Return the front as a Markdown table; where no trial is feasible, what stopped them and what to relax."""
    if status.nearest is None:
        table = build_front_table(spec, status, points)
        return "\n".join([render_markdown(table), *(f"\n{escape_markdown(note)}" for note in table.notes)])
    table = build_tally_table(status, spec.constraints)
    advice = "\n".join(f"    {line}" for line in list_advice(status, spec.constraints, spec.name, command))
    return f"{table.caption}.\n\n{render_markdown(table)}\n\n{advice}"


def _draw_plots(study: SearchStudy, status: StudyStatus, importance: Mapping[str, Mapping[str, float]]) -> None:
    spec, folder = study.spec, study.folder
    plots.draw_front(spec.objectives, spec.constraints, status, folder / "front.svg", spec.name)
    plots.draw_history(spec.objectives, status, folder / "hypervolume.svg")
    title = "importance of the settings"
    if spec.halving is not None:
        title += ", trainings cut short at the first rung"
    parameter_plots.draw_importance(importance, folder / "importance.svg", title)
    parameter_plots.draw_slices(spec.objectives, status, importance, folder / "slices.svg")
    parameter_plots.draw_parallel(spec.objectives, status, importance, folder / "parallel.svg")


def _write_data(
    study: SearchStudy,
    status: StudyStatus,
    importance: Mapping[str, Mapping[str, float]],
    points: Sequence[TestedPoint],
) -> None:
    picks = choose_picks(status, study.spec.objectives)
    front = [
        {
            "trial": point.number,
            "picks": [name for name, trial in picks.items() if trial.number == point.number],
            "varied": point.varied,
            "metrics": point.metrics,
            "config": str(point.config),
            "command": point.command,
        }
        for point in points
    ]
    tallies = tally_constraints(status.done, study.spec.constraints)
    data = {
        "study": study.spec.name,
        "objectives": [objective.name for objective in study.spec.objectives],
        "constraints": [constraint.text for constraint in study.spec.constraints],
        "hypervolume": status.history,
        "importance": importance,
        "infeasible": {tally.constraint.text: tally.stopped for tally in tallies},
        "front": front,
    }
    replace_file(study.folder / FRONT_FILE, f"{encode_json(data, indent=1)}\n".encode())


def _export_point(study: SearchStudy, trial: FrozenTrial, runner: Runner, command: list[str]) -> TestedPoint:
    folder = study.folder / "front" / f"trial_{trial.number:04d}"
    varied = read_outcome(trial).varied
    record = _read_tested(folder) or _test_trial(study, trial, runner, command, folder)
    path, repeat = write_point_config(study, trial.number, record.config)
    return TestedPoint(trial.number, varied, record.metrics, path, folder / TFLITE, repeat)


def write_point_config(study: SearchStudy, number: int, config: Mapping[str, Any]) -> tuple[Path, str]:
    """Write the config file of a trial into its study's folder.

    Args:
        study: The study.
        number: The trial's number.
        config: The run's config, as a record has it.

    Returns:
        The file, and the command that runs it.
    """
    path = study.folder / "front" / f"trial_{number:04d}.yaml"
    values = {**config, "tracking": study.spec.settings.written["tracking"]}
    return path, write_primary_config(path, values, f"Trial {number} of the study {study.spec.name}")


def _test_trial(study: SearchStudy, trial: FrozenTrial, runner: Runner, command: list[str], folder: Path) -> Record:
    """Repeat a trial with the test split, and copy its file into a folder."""
    settings = study.spec.make_trial_settings(study.config_of(trial))
    record = runner.trial(settings, read_outcome(trial).varied, folder, command, test=True)
    if record.status != "done":
        raise LightexpError(f"trial {trial.number} could not be repeated: {record.reason}")
    store = Store(settings.outputs / "store")
    shutil.copyfile(store.folder(record.stages[-1].key) / TFLITE, folder / TFLITE)
    return record


def _read_tested(folder: Path) -> Record | None:
    """Return the record of a trial that an earlier command has tested, or None."""
    try:
        record = read_record(folder)
    except LightexpError:
        return None
    return record if record.status == "done" and (folder / TFLITE).is_file() else None


def build_front_table(spec: StudySpec, status: StudyStatus, points: Sequence[FrontPoint]) -> Table:
    """Return the front as a table: a row for each point, with its objectives, usual metrics, picks and settings.

    Args:
        spec: The study's specification.
        status: The study's status.
        points: The front's points, in the order of the rows.
    """
    primary, picks = spec.settings.task.primary, choose_picks(status, spec.objectives)
    names = [objective.name for objective in spec.objectives]
    usual = (f"{primary}/val", f"{primary}/test", *_TABLE_METRICS)
    names += [name for name in usual if name not in names]
    columns = [find_column(name) for name in names]
    rows = []
    for point in points:
        settings = " ".join(map(shorten_setting, point.varied))
        texts = map(TableCell, (name_picks(picks, point.number), settings))
        cells = (TableCell(str(point.number)), *build_metric_cells(columns, point.metrics), *texts)
        rows.append(TableRow(cells))
    headings = [TableColumn("Trial"), *(TableColumn(column.heading) for column in columns)]
    headings += [TableColumn("Pick", align="left"), TableColumn("Settings", align="left")]
    notes = [*_note_chance(status), *list_footnotes(columns)]
    if any(name in TIMES for name in names):
        notes += list_doubtful_rows((str(point.number), point.metrics) for point in points)
    return Table(tuple(headings), tuple(rows), notes=tuple(notes))


def _note_chance(status: StudyStatus) -> list[str]:
    """Return a note for trials of the front that are no better than guessing, one for those with the same reason."""
    numbers: dict[str, list[str]] = {}
    for trial in status.front:
        if note := read_chance(trial):
            numbers.setdefault(note, []).append(str(trial.number))
    return [f"Trial {', '.join(trials)}: {note}." for note, trials in numbers.items()]


def count_stored_stages(spec: StudySpec, configs: Sequence[Any], runner: Runner) -> list[tuple[int, int]]:
    """Count the stages of each config whose result is in the store.

    Args:
        spec: The study's specification.
        configs: Configs of trials.
        runner: Plans the trials.

    Returns:
        For each config, the number of stored stages and the number of all stages.
    """
    counts = []
    for config in configs:
        settings = spec.make_trial_settings(config)
        plan, _ = runner.plan(settings)
        keys = [node.key for node in plan.nodes]
        counts.append((len(runner.open_store(settings).locate(keys)), len(keys)))
    return counts
