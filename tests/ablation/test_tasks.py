"""Which stages an ablation makes as tasks of their own, and what waits for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

from lightexp.ablation.runs import Backlog, RunIndex, find_backlog, plan_runs
from lightexp.ablation.spec import AblationSpec
from lightexp.ablation.tasks import list_run_tasks
from lightexp.ablation.worker import TaskExecutor
from lightexp.core.store import Store
from lightexp.execution.work import Events
from lightexp.runner.progress import SilentReporter
from lightexp.runner.run import Runner

TEACHER = 'pipeline.stages.distill.objective.teacher=["pipeline=control","model=mlp","pipeline.stages.train.epochs=1"]'
BASE = ["runtime.threads=2", "dataset=digits", "model=lenet_300_100", "model.width=0.1", "pipeline=distill", TEACHER]
ROWS = {"control": ["pipeline=control"]} | {
    f"temperature {value}": [f"pipeline.stages.distill.objective.temperature={value}"] for value in (2, 4)
}


def make_backlog(make_spec: Callable[..., AblationSpec], outputs: Path) -> Backlog:
    spec = make_spec(base=[*BASE, f"paths.outputs={outputs}"], rows=ROWS, seeds=[0])
    return find_backlog(plan_runs(spec, Runner(SilentReporter())), RunIndex(outputs), Store(outputs / "store").has)


def test_shared_teacher_is_a_task_that_rows_wait_for(
    make_spec: Callable[..., AblationSpec], tmp_path: Path, tensorflow: None
) -> None:
    backlog = make_backlog(make_spec, tmp_path)
    tasks = list_run_tasks(backlog)
    stages = {task.id: task for task in tasks if task.kind == "stage"}
    runs = {task.row: task for task in tasks if task.kind == "run"}
    own = set(backlog.missing[0].keys)
    [teacher] = [key for key in stages if key not in own]
    assert stages[teacher].needs == []
    assert backlog.shared == {**dict.fromkeys(own, 3), teacher: 2}
    assert set(runs["temperature 2"].needs) == {*own, teacher} and set(runs["control"].needs) == own
    assert backlog.seconds[teacher] is None

    executor = TaskExecutor(Mock(spec=Events))
    assert executor.run(stages[teacher])["seconds"] > 0
    store = Store(tmp_path / "store")
    assert store.has(teacher) and not any(map(store.has, own))  # the worker makes nothing else for it
