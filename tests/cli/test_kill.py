"""Real runs that are killed and interrupted in the middle of a stage, and the runs that continue them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lightexp.core.record import Record
from tests.cli.commands import TINY, Running, keys, lightexp, mlflow_status, read_records

PLUGIN = """
import os
from pathlib import Path
from lightexp.core.config import settings_dataclass
from lightexp.stages.prune import Prune

@settings_dataclass
class EndlessPrune(Prune):
    def apply(self, parent, context):
        while Path(os.environ["ENDLESS"]).exists():
            super().apply(parent, context)
        return super().apply(parent, context)
"""
"""A stage that prunes again and again as long as a file exists, so that it can be killed on any machine."""
OVERRIDES = [*TINY, "plugins=[endless]", "pipeline.stages.prune._target_=endless.EndlessPrune"]


@dataclass
class Story:
    """Four runs of one command over one store.

    Attributes:
        killed: The record of the run that SIGKILL ended while it pruned.
        terminated: The record of the run that SIGTERM ended while it pruned; it ignored Ctrl-C.
        interrupted: The record of the run that Ctrl-C ended while it pruned.
        finished: The record of the run that ended by itself.
        mlflow: Status of each MLflow run, after each run.
        ends: Exit code, standard output and standard error of the second and third run.
        leftovers: Drafts of the store and locks of runs at the end.
    """

    killed: Record
    terminated: Record
    interrupted: Record
    finished: Record
    mlflow: list[dict[str, str]]
    ends: list[tuple[int, str, str]]
    leftovers: list[Path]


def read_change_time(folder: Path) -> int | None:
    """Return when a folder was last changed; None if it does not exist, which can happen at any moment."""
    try:
        return folder.stat().st_mtime_ns
    except FileNotFoundError:
        return None


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the file that keeps the stage pruning; the plugin is importable meanwhile."""
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "endless.py").write_text(PLUGIN)
    file = folder / "go_on"
    file.touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ENDLESS", str(file))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))
        patch.syspath_prepend(folder)
        yield file


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, endless: Path, copy_database: Callable[[Path], None]) -> Story:
    folder = tmp_path_factory.mktemp("kill")
    outputs = folder / "outputs"
    copy_database(outputs)
    key = keys(*OVERRIDES)["prune"]
    draft = outputs / "store" / "drafts" / key
    mlflow = []

    def is_mirrored() -> bool:
        return bool(read_records(outputs)) and "run_id" in read_records(outputs)[-1].mlflow

    first = Running("run", *OVERRIDES, cwd=folder)
    first.until(lambda: draft.is_dir() and is_mirrored())
    first.kill()
    assert first.end()[0] == -signal.SIGKILL
    assert draft.is_dir()
    assert read_records(outputs)[0].status == "running"
    mlflow.append(mlflow_status(outputs))

    ends = []
    # A shell script makes what it starts in the background ignore Ctrl-C.
    for on_interrupt in (signal.SIG_IGN, signal.SIG_DFL):
        changed, count = read_change_time(draft), len(read_records(outputs))
        running = Running("run", *OVERRIDES, cwd=folder, on_interrupt=on_interrupt)

        def has_resumed(changed: int | None = changed, count: int = count) -> bool:
            return len(read_records(outputs)) > count and read_change_time(draft) not in (None, changed)

        running.until(has_resumed)
        if on_interrupt is signal.SIG_IGN:
            running.process.terminate()
        else:
            running.interrupt()
        ends.append(running.end())
        mlflow.append(mlflow_status(outputs))

    endless.unlink()
    result = lightexp("run", *OVERRIDES, cwd=folder)
    assert result.returncode == 0, result.stderr
    mlflow.append(mlflow_status(outputs))
    killed, terminated, interrupted, finished = read_records(outputs)
    leftovers = [*(outputs / "store" / "drafts").iterdir(), *(outputs / "runs" / ".live").iterdir()]
    return Story(killed, terminated, interrupted, finished, mlflow, ends, leftovers)


def test_next_run_continues_from_the_last_finished_stage(story: Story) -> None:
    assert [stage.from_store for stage in story.finished.stages] == [True, False, False]
    assert (story.finished.status, len(story.finished.stages)) == ("done", 3)
    assert not story.leftovers


def test_killed_run_is_closed_by_the_next_run(story: Story) -> None:
    assert story.killed.status == "killed"
    assert story.killed.reason == "its process was killed"
    assert story.killed.ended is not None
    run = story.killed.mlflow["run_id"]
    first, *others = [status[run] for status in story.mlflow]
    assert first in ("RUNNING", "KILLED")  # the process that mirrors it closes it, too
    assert others == ["KILLED"] * 3


@pytest.mark.parametrize("which", [0, 1], ids=["SIGTERM", "Ctrl-C"])
def test_interrupted_run_says_so_and_exits_with_130(story: Story, which: int) -> None:
    code, _, err = story.ends[which]
    record = [story.terminated, story.interrupted][which]
    assert code == 130, err
    assert [line for line in err.splitlines() if line.startswith("lightexp:")] == [
        "lightexp: Interrupted. What was finished is in the store; the same command goes on from there."
    ]
    assert "Traceback" not in err
    assert (record.status, record.reason) == ("interrupted", "interrupted")
    assert record.ended is not None
    assert story.mlflow[-1][record.mlflow["run_id"]] == "KILLED"
