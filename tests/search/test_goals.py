"""Objectives and constraints as they are written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightexp.core.errors import BadInput
from lightexp.search.goals import SearchObjective, parse_constraints, parse_objectives

KNOWN = {
    "accuracy/val": "max",
    "accuracy/test": "max",
    "size/file_bytes": "min",
    "latency/p50_us": "min",
    "micro/runs": None,
    "fits/nano33": "max",
    "time/train_s": "min",
}


def test_objectives_take_the_measurements_direction_or_the_words() -> None:
    assert parse_objectives(["accuracy/val", "max micro/runs"], KNOWN) == (
        SearchObjective("accuracy/val", "max"),
        SearchObjective("micro/runs", "max"),
    )


@pytest.mark.parametrize(
    ("text", "figures", "control", "expected"),
    [
        ("size/file_bytes <= 64 KiB", {"size/file_bytes": 2**16}, {}, 0.0),
        ("size/file_bytes <= 64 KiB", {"size/file_bytes": 2**17}, {}, 1.0),
        ("size/file_bytes<=64kB", {"size/file_bytes": 96_000}, {}, 0.5),
        ("size/file_bytes <= 100", {"size/file_bytes": 25}, {}, -0.75),
        ("accuracy/val >= 80%", {"accuracy/val": 0.4}, {}, 0.5),
        ("accuracy/val >= control - 0.01", {"accuracy/val": 0.89}, {"accuracy/val": 0.9}, 0.0),
        ("accuracy/val >= control - 1%", {"accuracy/val": 0.445}, {"accuracy/val": 0.9}, 0.5),
        ("accuracy/val >= control", {"accuracy/val": 0.9}, {"accuracy/val": 0.9}, 0.0),
        ("size/file_bytes <= control * 0.25", {"size/file_bytes": 50}, {"size/file_bytes": 100}, 1.0),
        ("latency/p50_us <= 2 ms", {"latency/p50_us": 1_000}, {}, -0.5),
        ("time/train_s <= 1 min", {"time/train_s": 90}, {}, 0.5),
        ("fits: nano33", {"fits/nano33": 1.0}, {}, 0.0),
        ("fits:nano33", {"fits/nano33": 0.0}, {}, 1.0),
        ({"fits": "nano33"}, {}, {}, 1.0),  # as YAML reads it; what could not be measured is not kept to
        ("accuracy/val >= control - 0.01", {"accuracy/val": 0.9}, {}, 1.0),
    ],
)
def test_a_constraint_is_violated_by_a_share_of_its_bound(text, figures, control, expected) -> None:
    (constraint,) = parse_constraints([text], KNOWN)
    assert constraint.compute_violation(figures, control) == pytest.approx(expected)


@given(st.floats(1, 1e9), st.floats(1, 1e9), st.sampled_from(["<=", ">="]))
def test_within_the_bound_is_at_most_zero(value: float, bound: float, sense: str) -> None:
    (constraint,) = parse_constraints([f"size/file_bytes {sense} {bound!r}"], KNOWN)
    kept = value <= bound if sense == "<=" else value >= bound
    assert (constraint.compute_violation({"size/file_bytes": value}, {}) <= 0) == kept


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("size/file_byte <= 64 KiB", "size/file_byte is not measured: did you mean 'size/file_bytes'?"),
        ("size/file_bytes <= 64 KiC", "'KiC' is not a unit of size/file_bytes"),
        ("size/file_bytes <= 3 ms", "'ms' is not a unit of size/file_bytes"),
        ("accuracy/val >= 3 KiB", "'KiB' is not a unit of accuracy/val"),
        ("size/file_bytes < 64", "must be like 'size/file_bytes <= 64 KiB'"),
        ("size/file_bytes <= big", "'big' is no bound"),
        ("size/file_bytes <= control -", "'control -' is no bound"),
        ("size/file_bytes <= control 4", "'control 4' is no bound"),
        ("size/file_bytes <= 1.2.3", "'1.2.3' is not a number"),
        ("size/file_bytes <= 1e999", "'1e999' is not a number"),
        ("accuracy/test >= 0.9", "trials do not look at the test split. Take accuracy/val"),
        ("fits: nano34", "fits/nano34 is not measured"),
        ("", "must be like"),
    ],
)
def test_a_constraint_that_cannot_be_read_is_refused(text: str, words: str) -> None:
    with pytest.raises(BadInput, match=r"search\.constraints: ") as refused:
        parse_constraints([text], KNOWN)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["micro/runs"], "micro/runs has no direction. Write 'max micro/runs'"),
        (["accuracy/vall"], "accuracy/vall is not measured: did you mean 'accuracy/val'?"),
        (["accuracy/test"], "Take accuracy/val"),
        (["best accuracy/val"], "must be NAME, 'max NAME' or 'min NAME'"),
        (["accuracy/val", "accuracy/val"], "each once"),
        ([], "at least one"),
    ],
)
def test_an_objective_that_cannot_be_used_is_refused(names: list[str], words: str) -> None:
    with pytest.raises(BadInput, match=r"search\.objectives") as refused:
        parse_objectives(names, KNOWN)
    assert words in str(refused.value)


def test_the_axes_are_errors_and_halvings_of_the_controls_bytes() -> None:
    assert SearchObjective("accuracy/val", "max").to_axis(0.75, 0.9, classes=4) == (0.25, 0.75)
    assert SearchObjective("size/file_bytes", "min").to_axis(25, 100, classes=4) == (-2.0, 0.0)
    assert SearchObjective("size/ratio", "max").to_axis(4, 1, classes=4) == (-2.0, 0.0)
    assert SearchObjective("loss/val", "min").to_axis(0.0, 0.5, classes=4) == (0.0, 0.5)
