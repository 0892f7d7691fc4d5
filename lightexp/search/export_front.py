"""What a study leaves: its front, each point tested once and written as a config file, as a table and a figure."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from optuna.trial import FrozenTrial

from lightexp.core.columns import COLUMNS, MetricColumn
from lightexp.core.errors import LightexpError
from lightexp.core.protocols import TFLITE
from lightexp.core.record import Record, read_record
from lightexp.core.store import Store
from lightexp.core.table import Table, TableColumn, render_markdown
from lightexp.runner.run import Runner
from lightexp.search import plots
from lightexp.search.goals import SearchObjective
from lightexp.search.outcome import OUTCOME
from lightexp.search.study import SearchStudy
from lightexp.search.study_spec import StudySpec
from lightexp.search.study_status import StudyStatus

TABLE, DATA = "front.md", "front.json"
_HYDRA = {
    "defaults": [{"override hydra/job_logging": "none"}, {"override hydra/hydra_logging": "none"}, "_self_"],
    "hydra": {"run": {"dir": "."}, "output_subdir": None, "job": {"chdir": False}},
}


@dataclass(frozen=True)
class FrontPoint:
    """A point of the front.

    Attributes:
        number: Its trial's.
        varied: What the study had set.
        figures: Of its file, the test split's with them.
        config: The config file that makes it again.
        model: The file that would ship.
        command: The command that makes it again.
    """

    number: int
    varied: list[str]
    metrics: dict[str, float]
    config: Path
    model: Path
    command: str


def export_front(study: SearchStudy, now: StudyStatus, runner: Runner, command: list[str]) -> list[FrontPoint]:
    """Tests the front's points that have not been, and writes configs, table, figure and data into the study's folder.

    Args:
        study: The study.
        now: How it stands.
        runner: Tests; takes what was trained from the store.
        command: Of the study, for the records.

    Raises:
        LightexpError: If a point cannot be made again.
    """
    points = [_point(study, trial, runner, command) for trial in now.front]
    table = build_front_table(study.spec.objectives, points)
    (study.folder / TABLE).write_text(render_markdown(table) + "\n", encoding="utf-8")
    weights = study.compute_importance()
    plots.draw_front(study.spec.objectives, now, study.folder / "front.svg", study.spec.name)
    plots.draw_history(now, study.folder / "hypervolume.svg")
    title = "importance of the parameters" + " (trainings cut short at the first rung)" * (
        study.spec.halving is not None
    )
    plots.draw_importance(weights, study.folder / "importance.svg", title)
    data = {
        "study": study.spec.name,
        "hypervolume": now.history,
        "importance": weights,
        "front": [
            {"trial": p.number, "varied": p.varied, "figures": p.metrics, "config": str(p.config), "command": p.command}
            for p in points
        ],
    }
    (study.folder / DATA).write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    return points


def _point(study: SearchStudy, trial: FrozenTrial, runner: Runner, command: list[str]) -> FrontPoint:
    folder = study.folder / "front" / f"trial_{trial.number:04d}"
    record = _tested(folder)
    if record is None:
        settings = study.spec.make_trial_settings(study.config_of(trial))
        varied = trial.user_attrs[OUTCOME]["varied"]
        record = runner.trial(settings, varied, folder, command, test=True)
        if record.status != "done":
            raise LightexpError(f"trial {trial.number} could not be made again: {record.reason}")
        store = Store(settings.outputs / "store")
        shutil.copyfile(store.folder(record.stages[-1].key) / TFLITE, folder / TFLITE)
    path = folder.with_suffix(".yaml")
    words = ["lightexp", "run", f"--config-dir={path.parent}", f"--config-name={path.stem}"]
    head = f"# Trial {trial.number} of the study {study.spec.name}: {shlex.join(words)}\n"
    tracked = {**record.config, "tracking": study.spec.settings.plain["tracking"]}
    path.write_text(head + OmegaConf.to_yaml(OmegaConf.create({**_HYDRA, **tracked})), encoding="utf-8")
    return FrontPoint(
        trial.number, trial.user_attrs[OUTCOME]["varied"], record.metrics, path, folder / TFLITE, shlex.join(words)
    )


def _tested(folder: Path) -> Record | None:
    """The record of a point that has been tested."""
    try:
        record = read_record(folder)
    except LightexpError:
        return None
    return record if record.status == "done" and (folder / TFLITE).is_file() else None


def build_front_table(objectives: Sequence[SearchObjective], points: Sequence[FrontPoint]) -> Table:
    """Return the front as a table: a row for each point, with its objectives, usual metrics and settings."""
    names = [objective.name for objective in objectives]
    names += [n for n in ("accuracy/val", "accuracy/test", "size/file_bytes", "size/ratio") if n not in names]
    known = {column.name: column for column in COLUMNS}
    columns = [known.get(name, MetricColumn(name, name, "{:.6g}".format)) for name in names]
    rows = []
    for point in points:
        cells = [column.format(point.metrics.get(column.name)) for column in columns]
        rows.append([str(point.number), *cells, " ".join(point.varied)])
    headings: list[TableColumn | str] = [TableColumn("Trial")]
    headings += [TableColumn(column.heading) for column in columns]
    return Table.from_text([*headings, "Settings"], rows)


def count_stored_stages(spec: StudySpec, configs: Sequence[Any], runner: Runner) -> list[tuple[int, int]]:
    """Of each config, how many of its stages are in the store, of how many."""
    found = []
    for config in configs:
        settings = spec.make_trial_settings(config)
        plan, _ = runner.plan(settings)
        store = Store(settings.outputs / "store")
        found.append((sum(store.has(node.key) for node in plan.nodes), len(plan.nodes)))
    return found
