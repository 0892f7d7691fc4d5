"""Estimate of an ablation's remaining time, and lines of progress."""

from __future__ import annotations

import pytest

from lightexp.ablation import run
from lightexp.ablation.runs import Backlog
from lightexp.ablation.tasks import AblationTask
from lightexp.ablation.time_left import TimeLeft


def make_time_left(stored: set[str], seconds: dict[str, float | None], workers: int = 1) -> TimeLeft:
    """Return the estimate of stages named by their first word, whose kind is all but the seed at their end."""
    kinds = {key: (key.rpartition(" ")[0], key.split()[0]) for key in seconds}
    backlog = Backlog([], [], {}, [], set(), {}, seconds, kinds)
    return TimeLeft(backlog, stored.__contains__, workers)


def test_stages_count_by_their_own_kind() -> None:
    stored: set[str] = set()
    keys = ["train 0", "train 1", "prune a 0", "prune a 1", "prune b 0"]
    left = make_time_left(stored, dict.fromkeys(keys))
    assert left.estimate() is None
    left.learn("train 0", 10.0)
    stored.add("train 0")
    assert left.estimate() == 40.0  # as long as any stage
    left.learn("prune a 0", 2.0)
    stored.add("prune a 0")
    assert left.estimate() == 10.0 + 2.0 + 2.0
    stored.update(keys)
    assert left.estimate() == 0.0


def test_earlier_records_and_workers_count() -> None:
    left = make_time_left(set(), {"train 0": 60.0, "train 1": 60.0, "prune 0": 6.0}, workers=2)
    assert left.estimate() == 63.0
    left.learn("train 0", 30.0)
    assert left.estimate() == 33.0


def test_progress_says_every_ten_seconds_what_is_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(run.time, "monotonic", lambda: now)
    lines: list[str] = []
    progress = run.TaskProgress(
        [AblationTask("stage", "a", "train, seed 0", []), AblationTask("run", "b", "row", [])], lines.append
    )
    now = 109.9
    progress.update(["train, seed 0"], 0.0)
    assert lines == []
    now = 110.0
    progress.update(["train, seed 0", "waiting for a task"], 0.0)
    assert lines == ["[0/2] at work: train, seed 0; waiting for a task"]
    now = 115.0
    progress.show_outcome("a", {"metrics": {"seconds": 15.0}})
    assert lines[-1] == "  train, seed 0: made in 15 s"
    now = 124.0
    progress.update(["row"], 0.0)
    assert len(lines) == 2  # the last line is nine seconds old
    now = 125.0
    progress.update(["row"], 0.0)
    assert lines[-1] == "[1/2] at work: row"
