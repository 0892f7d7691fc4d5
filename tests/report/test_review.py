"""What the review refuses, leaves out and asks."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lightexp.core.columns import COLUMNS
from lightexp.core.errors import BadInput
from lightexp.report import review
from lightexp.report.data import Report
from lightexp.report.runs import Run, name_rows
from lightexp.report.summary import build_summary
from lightexp.report.table_spec import TableSpec
from tests.synthetic import synthesize_record, synthesize_records


def ask(report: Report) -> str:
    return "\n".join(review.list_questions(report))


def test_check_comparable_refuses_different_data() -> None:
    other = synthesize_record("b", dataset={"name": "mnist", "splits": {"test": {"n": 1, "digest": "z"}}})
    message = r"saw different data \(5 runs of digits and 1 runs of mnist\).*Choose only=digits"
    with pytest.raises(BadInput, match=message):
        review.check_comparable([*name_rows(list(synthesize_records(1))), *name_rows([other])], "x")


def test_check_comparable_refuses_different_evaluators() -> None:
    other = synthesize_record("b")
    other.stages[-1].metrics[1] = replace(other.stages[-1].metrics[1], version=2)
    message = r"accuracy/test was measured by different evaluators, version 1 \(5 runs\) and"
    with pytest.raises(BadInput, match=message):
        review.check_comparable([*name_rows(list(synthesize_records(1))), *name_rows([other])], "x")


def test_check_comparable_accepts_equal_data(runs: list[Run]) -> None:
    review.check_comparable(runs, "x")


def test_latency_of_several_hosts_is_left_out(runs: list[Run], spec: TableSpec) -> None:
    foreign = name_rows([synthesize_record("b", environment={"host": "here", "timed_on": "there"})])
    fewer, fewer_columns, remarks = review.without_foreign_latency([*runs, *foreign], replace(spec, columns=COLUMNS))
    assert "several hosts (here, there)" in remarks[0]
    assert len(fewer) == len(runs) + 1
    assert not any(name.startswith("latency/") for run in fewer for name in [*run.metrics, *run.control])
    assert not any(column.name.startswith("latency/") for column in fewer_columns.columns)
    assert review.without_foreign_latency(runs, spec) == (runs, spec, [])


def test_questions_about_seeds_and_design(spec: TableSpec) -> None:
    questions = ask(build_summary(name_rows(synthesize_records(2)), spec))
    assert "fewer than 3 seeds" in questions
    assert "fewer than 5 operating points: 4 different" in questions
    assert "no row has that budget without compression" in questions
    assert "MACs" not in questions


def test_questions_about_sizes_without_macs(runs: list[Run], spec: TableSpec) -> None:
    size_only = tuple(column for column in COLUMNS if column.name in ("accuracy/test", "size/file_bytes"))
    assert "sizes are shown without MACs" in ask(build_summary(runs, replace(spec, columns=size_only)))
    assert "seeds" not in ask(build_summary(runs, spec))


def test_questions_about_equal_budget_and_missing_seeds(runs: list[Run], spec: TableSpec) -> None:
    train = {"_target_": "lightexp.stages.train.Train"}
    budget = synthesize_record("budget", stages=("train", "prune"))
    budget.config["pipeline"]["stages"] = {"as_prune": train, "train": train}
    questions = ask(build_summary([*runs, *name_rows([budget])], spec))
    assert "equal_budget" not in questions
    assert "'budget' has no run with seed 1, 2, 3, 4" in questions


def test_questions_about_waived_invariants(spec: TableSpec) -> None:
    outcomes = ("prune: 0.2, was 0.8", "prune: kept", "prune: kept; again: 0.3, was 0.8")
    waived = [synthesize_record("w", seed, waived={"sparsity": text}) for seed, text in enumerate(outcomes)]
    for waived_record in waived:
        waived_record.config["pipeline"]["waive"] = ["sparsity"]
    questions = ask(build_summary(name_rows([*synthesize_records(3), *waived]), spec))
    note = "waived sparsity, broken with 2 of 3 seeds (prune: 0.2, was 0.8)"
    assert f"'w' was allowed to break an invariant: {note}" in questions


def test_questions_about_a_choice_on_test() -> None:
    study = synthesize_record("s")
    study.config["search"] = {"objectives": ["accuracy/test", "size/file_bytes"]}
    assert "a choice was made on test" in ask(build_summary(name_rows([study]), TableSpec("x")))
