"""Tests that every task in `conf/task` must pass: every stage, every preset of a search and every report follow it.

Classification goes through every stage in `tests/test_conf.py`.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from lightexp.core.columns import find_column
from lightexp.core.primary_metric import read_primary
from lightexp.core.record import Record
from lightexp.core.sensitivity import SensitivityTable
from lightexp.report.runs import name_rows
from lightexp.report.summary import build_summary
from lightexp.report.table_spec import TableSpec
from lightexp.report.write import write_report
from lightexp.runner.config_dir import find_config_dir
from lightexp.search.study_spec import StudySpec
from lightexp.tracking.mlflow_payload import list_points
from tests.tasks.runs import TaskRuns


def list_choices(group: str) -> list[str]:
    """Return the names of a group's files, except those that are parts of others."""
    return sorted(path.stem for path in (find_config_dir() / group).glob("*.yaml") if not path.stem.startswith("_"))


DATA = {
    "binary": ["task.primary=auc"],
    "multilabel": ["dataset.name=wine", "task.labels={first: [0], not_last: [0,1]}"],
    "reconstruction": ["dataset.name=breast_cancer", "task.normal=[benign]"],
    "regression": ["dataset.name=diabetes", "task.unit=points"],
}
"""By task: the settings of a run that learns it; a new task needs an entry."""
PIPELINES = {
    "long": ["sensitivity", "prune_channels", "factorize", "prune", "cluster", "qat", "encode"],
    "short": ["distill", "rate", "quantize"],
}
"""Stages after `train`, in two pipelines that hold all of them."""


def list_overrides(task: str, pipeline: str) -> list[str]:
    stages = [f"+stage@pipeline.stages.{name}={name}" for name in PIPELINES[pipeline]]
    order = f"pipeline.order=[{','.join(['train', *PIPELINES[pipeline]])}]"
    values = ["pipeline.stages.cluster.k=4"] if pipeline == "long" else []  # few weights are left at that place
    return [f"task={task}", *DATA[task], "pipeline=control", *stages, order, *values]


@pytest.fixture(scope="module", params=DATA)
def task(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def records(task: str, task_runs: TaskRuns) -> list[Record]:
    """Return a record of each pipeline."""
    return [task_runs.run(*list_overrides(task, name), epochs=1) for name in PIPELINES]


def test_every_task_and_every_stage_is_here() -> None:
    assert {"classification", *DATA} == set(list_choices("task"))
    assert {name for names in PIPELINES.values() for name in names} | {"train"} == set(list_choices("stage"))


def test_every_stage_is_measured_by_the_primary_metric(records: list[Record]) -> None:
    primary = read_primary(records[0].dataset)
    for record in records:
        assert record.status == "done"
        for stage in record.stages:
            value = stage.metric(f"{primary.name}/val")
            assert value is not None and np.isfinite(value), stage.name
        assert np.isfinite(record.metrics[f"{primary.name}/test"])
    table = SensitivityTable.find(records[0].stages[1].facts)
    assert table is not None and (table.primary.name, table.primary.unit) == (primary.name, primary.unit)


def test_metrics_are_logged_under_their_names(records: list[Record]) -> None:
    primary = read_primary(records[0].dataset)
    keys = {point.key for point in list_points(records[0])}
    assert {f"{primary.name}/val", f"{primary.name}/test"} <= keys
    assert f"stage/train/{primary.name}/val" in {point.key for point in list_points(records[0], "all")}


def test_reports_speak_of_the_primary_metric_alone(records: list[Record], tmp_path: Path) -> None:
    rows = name_rows(records)
    primary = read_primary(records[0].dataset)
    page, *files = write_report(
        build_summary(rows, TableSpec("tasks", control=rows[0].row, figures=("front", "waterfall"))), tmp_path
    )
    texts = {path.name: path.read_text() for path in files if path.suffix in (".md", ".tex")}
    unit = f" ({primary.unit})" if primary.unit else ""
    assert f"| Δ {primary.name}{unit} |" in texts["table.md"].replace("\\_", "_")
    assert (f"$\\Delta$ ({primary.unit})" in texts["table.tex"]) == bool(primary.unit)
    assert not [name for name, text in texts.items() if re.search("percentage points|pp", text)]
    assert f"Δ {primary.name}" in page.read_text()
    plots = {path.stem: path.read_text() for path in files if path.suffix == ".svg"}
    assert find_column(f"{primary.name}/test").heading in plots["waterfall"]
    assert not [name for name, svg in plots.items() if re.search("accuracy|percentage points", svg)]


@pytest.mark.parametrize("preset", list_choices("search"))
def test_searches_are_for_the_primary_metric(preset: str, task: str, task_runs: TaskRuns) -> None:
    overrides = [f"search={preset}", f"task={task}", *DATA[task], *task_runs.list_overrides()]
    spec = StudySpec(overrides, [])
    spec.check()
    name = f"{spec.settings.task.primary}/val"
    assert spec.objectives[0].name == name
    assert spec.objectives[0].direction == spec.settings.task.metrics[name]
    assert len(spec.objectives) == 2
