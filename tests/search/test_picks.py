"""Picks of a front, and trials by a pick's name."""

from __future__ import annotations

import pytest

from lightexp.core.errors import BadInput
from lightexp.search.picks import choose_picks, find_knee, find_point, name_picks
from tests.search.trials import OBJECTIVES, make_status, make_trials

BENT = [(0.90, 1_000.0), (0.89, 250.0), (0.60, 200.0)]


def test_knee_is_where_the_front_bends() -> None:
    assert find_knee(make_trials(BENT), OBJECTIVES).number == 1
    straight = [(0.9, 1_000.0), (0.8, 500.0)]
    assert find_knee(make_trials(straight), OBJECTIVES).number == 0


def test_choose_picks_names_points_of_the_front() -> None:
    picks = choose_picks(make_status([*BENT, (0.55, 999.0)]), OBJECTIVES)
    assert {name: trial.number for name, trial in picks.items()} == {"best": 0, "knee": 1, "smallest": 2}
    assert name_picks(picks, 1) == "knee"
    assert name_picks(picks, 3) == ""
    assert name_picks(choose_picks(make_status(BENT[:1]), OBJECTIVES), 0) == "best, knee, smallest"


def test_find_point_says_what_it_is() -> None:
    status = make_status([*BENT, (0.7, 150.0)], ["accuracy/val >= 0.8"])
    trial, text = find_point("smallest", status, OBJECTIVES)
    assert (trial.number, text) == (1, "trial 1: smallest; Accuracy val 89.00%, File bytes 250")
    trial, text = find_point("3", status, OBJECTIVES)
    assert (trial.number, text) == (3, "trial 3: beyond accuracy/val >= 0.8; Accuracy val 70.00%, File bytes 150")


@pytest.mark.parametrize("name", ["knees", "9", "-1", ""])
def test_find_point_refuses_what_is_no_trial(name: str) -> None:
    with pytest.raises(BadInput, match=r"write best, knee, smallest or the number of a trial that is done: 0, 1, 2\."):
        find_point(name, make_status(BENT), OBJECTIVES)


def test_find_point_names_the_nearest_trial_if_none_is_feasible() -> None:
    with pytest.raises(BadInput, match=r"no trial of the study satisfies every constraint\. Trial 2 .*: --pick 2\."):
        find_point("knee", make_status(BENT, ["size/file_bytes <= 100"]), OBJECTIVES)
