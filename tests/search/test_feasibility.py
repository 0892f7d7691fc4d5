"""Which constraints stop a study's trials, and bounds that would admit the nearest one."""

from __future__ import annotations

import shlex

import pytest

from lightexp.core.columns import MISSING
from lightexp.search.feasibility import (
    build_tally_table,
    format_tallies,
    list_advice,
    relax_constraint,
    tally_constraints,
)
from lightexp.search.goals import parse_constraints
from tests.search.trials import CONTROL, KNOWN, make_status, make_trials

SIZE, ACCURACY = "size/file_bytes <= 100", "accuracy/val >= control - 0.1"
POINTS = [(0.85, 300.0), (0.7, 120.0), (0.9, 200.0)]


def test_tally_counts_trials_by_constraint() -> None:
    constraints = parse_constraints([ACCURACY, SIZE], CONTROL)
    size, accuracy = tally_constraints(make_trials(POINTS, [ACCURACY, SIZE]), constraints)
    assert (size.constraint.text, size.stopped, size.alone, size.excesses) == (SIZE, 3, 2, [20, 100, 200])
    assert (accuracy.stopped, accuracy.alone) == (1, 0)
    assert accuracy.excesses == pytest.approx([0.1])
    assert format_tallies([size, accuracy]) == f"3 beyond {SIZE}, 1 beyond {ACCURACY}"
    assert tally_constraints(make_trials([(0.9, 90)], [SIZE]), constraints) == []


def test_table_names_the_nearest_trial() -> None:
    status = make_status(POINTS, [ACCURACY, SIZE])
    headings, first, second = build_tally_table(status, parse_constraints([ACCURACY, SIZE], CONTROL)).texts
    assert headings[-1] == "Trial 1"
    assert first == [SIZE, "3 of 3", "2", "20", "100", "120"]
    assert second == [ACCURACY, "1 of 3", "0", "10.00%", "10.00%", "70.00%"]


def test_advice_relaxes_what_the_nearest_trial_needs() -> None:
    status = make_status(POINTS, [ACCURACY, SIZE])
    constraints = parse_constraints([ACCURACY, SIZE], CONTROL)
    command = ["lightexp", "search", "search.study=s", f"search.constraints=['{SIZE}']", "model=lenet5"]
    lines = list_advice(status, constraints, "s", command)
    assert lines[0].startswith("Nearest trial 1: prune.sparsity=0.3667")
    assert f"Or only {SIZE}  to  size/file_bytes <= 200  (trial 2)" in lines
    *start, relaxed = shlex.split(lines[-1])
    assert start == ["Search", "lightexp", "search", "model=lenet5", "search.study=s-relaxed"]
    assert relaxed.startswith('search.constraints=["accuracy/val >= control - 0.2')
    assert relaxed.endswith(',"size/file_bytes <= 120"]')
    assert list_advice(make_status(POINTS), constraints, "s", command) == []


def test_advice_names_the_settings_of_a_sweeper() -> None:
    command = ["lightexp", "run", "-m", "hydra/sweeper=lightexp", f"hydra.sweeper.constraints=['{SIZE}']"]
    *_, line = list_advice(make_status([(0.9, 200)], [SIZE]), parse_constraints([SIZE], CONTROL), "s", command)
    assert shlex.split(line)[-2:] == [
        "hydra.sweeper.study=s-relaxed",
        'hydra.sweeper.constraints=["size/file_bytes <= 200"]',
    ]


@pytest.mark.parametrize(
    ("text", "accuracy", "size", "expected"),
    [
        ("size/file_bytes <= 64 KiB", 0.9, 70_001, "size/file_bytes <= 68.4 KiB"),
        ("size/file_bytes <= control * 0.1", 0.9, 123.4, "size/file_bytes <= control * 0.124"),
        ("size/file_bytes <= control - 900", 0.9, 123.4, "size/file_bytes <= control - 876"),
        ("accuracy/val >= control", 0.8766, 1, "accuracy/val >= control - 0.0235"),
        ("accuracy/val >= control + 0.05", 0.9312, 1, "accuracy/val >= control + 0.0311"),
        ("accuracy/val >= 95%", 0.9312, 1, "accuracy/val >= 0.931"),
    ],
)
def test_relaxed_constraint_is_satisfied(text: str, accuracy: float, size: float, expected: str) -> None:
    (constraint,) = parse_constraints([text], CONTROL)
    (trial,) = make_trials([(accuracy, size)], [text])
    assert trial.constraints[text] > 0
    relaxed = relax_constraint(constraint, trial)
    assert relaxed == expected
    (looser,) = parse_constraints([relaxed], CONTROL)
    assert looser.compute_violation({"accuracy/val": accuracy, "size/file_bytes": size}, CONTROL) <= 0


def test_missing_metric_has_no_looser_bound() -> None:
    texts = ["fits: nano33", "micro/arena_bytes <= 1 KiB"]
    status = make_status([(0.9, 200)], texts)
    lines = list_advice(status, parse_constraints(texts, KNOWN), "s", ["lightexp", "search"])
    assert lines[1:3] == [
        "Relax   fits: nano33 has no looser bound: fits/nano33 was not measured",
        "Relax   micro/arena_bytes <= 1 KiB has no looser bound: micro/arena_bytes was not measured",
    ]
    assert lines[3] == "Search  lightexp search search.study=s-relaxed 'search.constraints=[]'"
    assert tally_constraints(status.done, parse_constraints(texts, KNOWN))[0].excesses == []
    assert build_tally_table(status, parse_constraints(texts, KNOWN)).texts[1][3:] == [MISSING] * 3
