"""What the review refuses, leaves out and asks."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lightexp.core.columns import COLUMNS
from lightexp.core.errors import BadInput
from lightexp.report import review
from lightexp.report.data import Report
from lightexp.report.documents import list_legend, render_markdown_document
from lightexp.report.latex import render_latex_document
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
    fewer, fewer_columns, remarks = review.drop_incomparable_latency([*runs, *foreign], replace(spec, columns=COLUMNS))
    assert "several hosts (here, there)" in remarks[0]
    assert len(fewer) == len(runs) + 1
    assert not any(name.startswith("latency/") for run in fewer for name in [*run.metrics, *run.control])
    assert not any(column.name.startswith("latency/") for column in fewer_columns.columns)
    assert review.drop_incomparable_latency(runs, spec) == (runs, spec, [])


def test_latency_of_several_versions_is_left_out(runs: list[Run], spec: TableSpec) -> None:
    other = synthesize_record("b")
    shipped = other.stages[-1]
    shipped.metrics = [replace(m, version=2) if m.name == "latency/p50_us" else m for m in shipped.metrics]
    both = [*runs, *name_rows([other])]
    review.check_comparable(both, "x")
    fewer, _, remarks = review.drop_incomparable_latency(both, spec)
    assert "by versions 1 and 2 of the measurement" in remarks[0]
    assert not any("latency/p50_us" in run.metrics for run in fewer)


def test_questions_about_doubtful_latency(runs: list[Run], spec: TableSpec) -> None:
    times = {"both": (1.0, 2_900.0, 3.0, 3.0, 3.0), "prune": (2.0,) * 5}
    changed = []
    for run in runs:
        p50 = times.get(run.row, (2.0,) * 5)[run.seed]
        is_busy = run.row == "prune" and run.seed == 1
        host = {"latency/load": 1.5, "latency/runnable": 2.0 if is_busy else 1.0}
        metrics = {**run.metrics, "latency/p50_us": p50, "latency/p95_us": p50 + 2.0, **host}
        changed.append(replace(run, metrics=metrics))
    report = build_summary(changed, spec)
    doubts = {row.name: row.doubts for row in report.rows if row.doubts}
    assert doubts == {
        "prune": ("busy host with 1 of 5 seeds",),
        "both": ("p95 is above twice p50 with 1 of 5 seeds", "p50 differs between seeds by over half its mean"),
    }
    assert "the latency of 'prune' is doubtful: busy host with 1 of 5 seeds" in ask(report)
    marks = {row.name: row.metric("latency/p50_us").doubt_mark for row in report.rows}
    assert {name for name, mark in marks.items() if mark == "‡"} == {"prune", "both"}
    assert any(line.startswith("‡ doubtful latency") for line in list_legend(report))
    assert "\\ddagger" in render_latex_document(report) and "‡" in render_markdown_document(report)
    quiet = build_summary(runs, spec)
    assert not any(row.doubts for row in quiet.rows) and "‡" not in render_markdown_document(quiet)


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


def test_list_questions_counts_those_of_one_kind() -> None:
    missing = [
        synthesize_record(f"row {n}", seed, sparsity=n / 100, number=10 * n + seed)
        for n in range(30)
        for seed in range(3)
    ]
    complete = [synthesize_record("all", seed, sparsity=0.9, number=1_000 + seed) for seed in range(4)]
    report = build_summary(name_rows([*complete, *missing]), TableSpec("many"))
    lines = [line for line in review.list_questions(report) if "has no run with seed" in line or "more of this" in line]
    assert len(lines) == 21
    assert lines[-1] == "10 more of this kind"
