"""Objectives and constraints: how they are parsed, and how far a trial violates them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightexp.core.errors import BadInput, RunFailed
from lightexp.core.primary_metric import PrimaryMetric
from lightexp.search.goals import SearchObjective, parse_constraints, parse_objectives, read_values

KNOWN = {
    "accuracy/val": "max",
    "accuracy/test": "max",
    "size/file_bytes": "min",
    "latency/p50_us": "min",
    "micro/runs": None,
    "fits/nano33": "max",
    "time/train_s": "min",
}


def test_parse_objectives_reads_directions() -> None:
    assert parse_objectives(["accuracy/val", "max micro/runs"], KNOWN) == (
        SearchObjective("accuracy/val", "max"),
        SearchObjective("micro/runs", "max"),
    )


@pytest.mark.parametrize(
    ("text", "metrics", "control", "expected"),
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
        ({"fits": "nano33"}, {}, {}, 1.0),  # as YAML reads it; a metric that is missing violates it
        ("accuracy/val >= control - 0.01", {"accuracy/val": 0.9}, {}, 1.0),
    ],
)
def test_compute_violation_is_a_fraction_of_the_bound(text, metrics, control, expected) -> None:
    (constraint,) = parse_constraints([text], KNOWN)
    assert constraint.compute_violation(metrics, control) == pytest.approx(expected)


@given(st.floats(1, 1e9), st.floats(1, 1e9), st.sampled_from(["<=", ">="]))
def test_compute_violation_is_at_most_zero_within_the_bound(value: float, bound: float, sense: str) -> None:
    (constraint,) = parse_constraints([f"size/file_bytes {sense} {bound!r}"], KNOWN)
    is_within = value <= bound if sense == "<=" else value >= bound
    assert (constraint.compute_violation({"size/file_bytes": value}, {}) <= 0) == is_within


@pytest.mark.parametrize(
    ("text", "expected"),
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
def test_parse_constraints_refuses_what_it_cannot_read(text: str, expected: str) -> None:
    with pytest.raises(BadInput, match=r"search\.constraints: ") as refused:
        parse_constraints([text], KNOWN)
    assert expected in str(refused.value)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["micro/runs"], "micro/runs has no direction. Write 'max micro/runs'"),
        (["accuracy/vall"], "accuracy/vall is not measured: did you mean 'accuracy/val'?"),
        (["accuracy/test"], "Take accuracy/val"),
        (["best accuracy/val"], "must be NAME, 'max NAME' or 'min NAME'"),
        (["accuracy/val", "accuracy/val"], "each once"),
        ([], "at least one"),
    ],
)
def test_parse_objectives_refuses_what_cannot_be_optimised(names: list[str], expected: str) -> None:
    with pytest.raises(BadInput, match=r"search\.objectives") as refused:
        parse_objectives(names, KNOWN)
    assert expected in str(refused.value)


def test_to_axis_gives_errors_and_log_ratios() -> None:
    assert SearchObjective("accuracy/val", "max").to_axis(0.75, 0.9, PrimaryMetric(reference=0.25)) == (0.25, 0.75)
    assert SearchObjective("size/file_bytes", "min").to_axis(25, 100, PrimaryMetric(reference=0.25)) == (-2.0, 0.0)
    assert SearchObjective("size/ratio", "max").to_axis(4, 1, PrimaryMetric(reference=0.25)) == (-2.0, 0.0)
    assert SearchObjective("loss/val", "min").to_axis(0.0, 0.5, PrimaryMetric(reference=0.25)) == (0.0, 0.5)


def test_read_values_names_what_is_missing_or_not_finite() -> None:
    objectives = parse_objectives(["accuracy/val", "size/file_bytes"], KNOWN)
    assert read_values(objectives, {"accuracy/val": 0.5, "size/file_bytes": 9.0}) == [0.5, 9.0]
    with pytest.raises(RunFailed, match=r"size/file_bytes was not measured"):
        read_values(objectives, {"accuracy/val": 0.5})
    with pytest.raises(RunFailed, match=r"accuracy/val is nan"):
        read_values(objectives, {"accuracy/val": float("nan"), "size/file_bytes": 9.0})
