"""The front of a study: guessing stays off it, and the nearest trial where nothing is feasible."""

from __future__ import annotations

from tests.search.trials import make_status


def test_compute_status_keeps_guessing_off_the_front() -> None:
    status = make_status([(0.9, 800), (0.5, 100), (0.7, 400)], chance=[1])
    assert [trial.number for trial in status.front] == [0, 2]
    assert [trial.number for trial in status.feasible] == [0, 1, 2]
    assert [trial.number for trial in status.chance] == [1]


def test_front_shows_guessing_if_nothing_else_is_feasible() -> None:
    status = make_status([(0.9, 800), (0.5, 100)], ["size/file_bytes <= 500"], chance=[1])
    assert [trial.number for trial in status.front] == [1]


def test_nearest_has_the_least_violations() -> None:
    constraints = ["size/file_bytes <= 100", "accuracy/val >= control - 0.1"]
    status = make_status([(0.9, 300), (0.7, 120), (0.3, 90)], constraints)
    assert status.nearest is not None
    assert status.nearest.number == 1
    assert make_status([(0.9, 300)]).nearest is None
    assert make_status([]).nearest is None
