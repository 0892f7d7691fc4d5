"""Export of a study's front: each point tested once and written as a config file, with a table, plots and data."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from optuna.trial import FrozenTrial

from lightexp.core.columns import find_column, list_footnotes
from lightexp.core.errors import LightexpError
from lightexp.core.formatting import escape_markdown
from lightexp.core.json_text import encode_json
from lightexp.core.protocols import TFLITE
from lightexp.core.record import Record, read_record
from lightexp.core.regular_files import replace_file
from lightexp.core.store import Store
from lightexp.core.table import Table, TableColumn, render_markdown
from lightexp.runner.run import Runner
from lightexp.search import plots
from lightexp.search.goals import SearchObjective
from lightexp.search.outcome import read_outcome
from lightexp.search.study import SearchStudy
from lightexp.search.study_spec import StudySpec
from lightexp.search.study_status import StudyStatus

TABLE, DATA = "front.md", "front.json"
_TABLE_METRICS = ("size/file_bytes", "size/ratio")
_PRIMARY_CONFIG = {
    "defaults": [{"override hydra/job_logging": "none"}, {"override hydra/hydra_logging": "none"}, "_self_"],
    "hydra": {"run": {"dir": "."}, "output_subdir": None, "job": {"chdir": False}},
}
"""What a config file needs besides the run's config to be named by `--config-name`."""


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
    table = build_front_table(study.spec.objectives, points, study.spec.settings.task.primary)
    lines = [render_markdown(table), *(line for note in table.notes for line in ("", escape_markdown(note)))]
    replace_file(study.folder / TABLE, "\n".join([*lines, ""]).encode())
    importance = study.compute_importance()
    plots.draw_front(study.spec.objectives, status, study.folder / "front.svg", study.spec.name)
    plots.draw_history(status, study.folder / "hypervolume.svg")
    title = "importance of the parameters"
    if study.spec.halving is not None:
        title += " (trainings cut short at the first rung)"
    plots.draw_importance(importance, study.folder / "importance.svg", title)
    _write_data(study, status, importance, points)
    return points


def _write_data(
    study: SearchStudy,
    status: StudyStatus,
    importance: Mapping[str, Mapping[str, float]],
    points: Sequence[TestedPoint],
) -> None:
    front = [
        {
            "trial": point.number,
            "varied": point.varied,
            "metrics": point.metrics,
            "config": str(point.config),
            "command": point.command,
        }
        for point in points
    ]
    data = {"study": study.spec.name, "hypervolume": status.history, "importance": importance, "front": front}
    replace_file(study.folder / DATA, f"{encode_json(data, indent=1)}\n".encode())


def _export_point(study: SearchStudy, trial: FrozenTrial, runner: Runner, command: list[str]) -> TestedPoint:
    folder = study.folder / "front" / f"trial_{trial.number:04d}"
    varied = read_outcome(trial).varied
    record = _read_tested(folder) or _test_trial(study, trial, runner, command, folder)
    path = folder.with_suffix(".yaml")
    repeat = shlex.join(["lightexp", "run", f"--config-dir={path.parent}", f"--config-name={path.stem}"])
    comment = f"# Trial {trial.number} of the study {study.spec.name}: {repeat}\n"
    config = {**_PRIMARY_CONFIG, **record.config, "tracking": study.spec.settings.written["tracking"]}
    replace_file(path, f"{comment}{OmegaConf.to_yaml(OmegaConf.create(config))}".encode())
    return TestedPoint(trial.number, varied, record.metrics, path, folder / TFLITE, repeat)


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


def build_front_table(objectives: Sequence[SearchObjective], points: Sequence[FrontPoint], primary: str) -> Table:
    """Return the front as a table: a row for each point, with its objectives, usual metrics and settings.

    Args:
        objectives: The study's objectives.
        points: The points, in the order of the rows.
        primary: Name of the task's primary metric.
    """
    names = [objective.name for objective in objectives]
    usual = (f"{primary}/val", f"{primary}/test", *_TABLE_METRICS)
    names += [name for name in usual if name not in names]
    columns = [find_column(name) for name in names]
    rows = []
    for point in points:
        cells = [column.format(point.metrics.get(column.name)) for column in columns]
        rows.append([str(point.number), *cells, " ".join(point.varied)])
    headings: list[TableColumn | str] = [TableColumn("Trial")]
    headings += [TableColumn(column.heading) for column in columns]
    return Table.from_text([*headings, "Settings"], rows, notes=list_footnotes(columns))


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
        store = Store(settings.outputs / "store")
        counts.append((sum(store.has(node.key) for node in plan.nodes), len(plan.nodes)))
    return counts
