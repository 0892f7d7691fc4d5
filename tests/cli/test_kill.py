"""Real runs that are killed and interrupted in the middle of a stage, and what the next run makes of it."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from lightexp.core.record import Record
from tests.cli.commands import TINY, Running, keys, lightexp, mlflow_status, read_records

WORDS = [word for word in TINY if "prune.epochs" not in word] + ["pipeline.stages.prune.epochs=100"]


@dataclass
class Story:
    """Four runs of one command over one store.

    Attributes:
        killed: By SIGKILL while it pruned.
        terminated: By SIGTERM while it pruned, where Ctrl-C was ignored.
        interrupted: By Ctrl-C while it pruned.
        finished: Left alone.
        mlflow: Each MLflow run's status, after each run.
        ends: Exit code, standard output and standard error of the second and third.
        left: What was left in the store's drafts at the end.
    """

    killed: Record
    terminated: Record
    interrupted: Record
    finished: Record
    mlflow: list[dict[str, str]]
    ends: list[tuple[int, str, str]]
    left: list[Path]


def _changed(folder: Path) -> int | None:
    """When a folder was last changed; None where it is not there, which may be so at any moment."""
    try:
        return folder.stat().st_mtime_ns
    except FileNotFoundError:
        return None


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    folder = tmp_path_factory.mktemp("kill")
    outputs = folder / "outputs"
    pruned = keys(*WORDS)["prune"]
    draft = outputs / "store" / "drafts" / pruned
    mlflow = []

    def shown() -> bool:
        return bool(read_records(outputs)) and "run_id" in read_records(outputs)[-1].mlflow

    first = Running("run", *WORDS, cwd=folder)
    first.until(lambda: draft.is_dir() and shown())
    first.kill()
    assert first.end()[0] == -signal.SIGKILL
    assert draft.is_dir()
    assert read_records(outputs)[0].status == "running"
    mlflow.append(mlflow_status(outputs))

    ends = []
    # A shell script makes what it starts in the background ignore Ctrl-C.
    for on_interrupt in (signal.SIG_IGN, signal.SIG_DFL):
        seen, count = _changed(draft), len(read_records(outputs))
        running = Running("run", *WORDS, cwd=folder, on_interrupt=on_interrupt)
        running.until(
            lambda seen=seen, count=count: len(read_records(outputs)) > count and _changed(draft) not in (None, seen)
        )
        running.process.terminate() if on_interrupt is signal.SIG_IGN else running.interrupt()
        ends.append(running.end())
        mlflow.append(mlflow_status(outputs))

    done = lightexp("run", *WORDS, cwd=folder)
    assert done.returncode == 0, done.stderr
    mlflow.append(mlflow_status(outputs))
    killed, terminated, interrupted, finished = read_records(outputs)
    left = [*(outputs / "store" / "drafts").iterdir(), *(outputs / "runs" / ".live").iterdir()]
    return Story(killed, terminated, interrupted, finished, mlflow, ends, left)


def test_the_next_run_goes_on_from_the_last_finished_stage(story: Story) -> None:
    assert [stage.from_store for stage in story.finished.stages] == [True, False, False]
    assert (story.finished.status, len(story.finished.stages)) == ("done", 3)
    assert not story.left


def test_a_killed_run_is_closed_by_the_next(story: Story) -> None:
    assert story.killed.status == "killed"
    assert story.killed.reason == "its process was killed"
    assert story.killed.ended is not None
    run = story.killed.mlflow["run_id"]
    assert [status[run] for status in story.mlflow] == ["RUNNING", "KILLED", "KILLED", "KILLED"]


@pytest.mark.parametrize("which", [0, 1], ids=["SIGTERM", "Ctrl-C"])
def test_an_interrupted_run_says_so_and_ends_with_130(story: Story, which: int) -> None:
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
