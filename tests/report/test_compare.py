"""Comparison of two sets of runs."""

from __future__ import annotations

import pytest

from lightexp.core.errors import BadInput
from lightexp.report.compare import compare_runs
from lightexp.report.runs import Run, name_rows
from tests.synthetic import synthesize_record

NAMES = ("before", "after")


def make_runs(row: str, seeds: range = range(3), sparsity: float = 0.8, lost: float = 0.0) -> list[Run]:
    return name_rows(synthesize_record(row, seed, sparsity=sparsity, lost=lost, number=seed) for seed in seeds)


def test_compare_runs_pairs_rows_by_seed() -> None:
    comparison = compare_runs(make_runs("a"), make_runs("a", lost=0.01), NAMES)
    headings, *rows = comparison.metrics.texts
    assert headings == ["Row", "Measurement", "before", "after", "Second - first [95%]", "p"]
    accuracy = next(row for row in rows if row[1] == "Accuracy test")
    assert accuracy[0] == "a"
    assert accuracy[4:] == ["-0.01 [-0.01, -0.01]", "–"]
    ratio = next(row for row in rows if row[1] == "Ratio")
    assert ratio[4] == "x1 [x1, x1]"
    assert comparison.settings.rows == ()


def test_compare_runs_lists_settings_that_differ() -> None:
    comparison = compare_runs(make_runs("a"), make_runs("b", sparsity=0.5), NAMES)  # the only rows of both
    assert comparison.settings.texts == [
        ["Setting", "before", "after"],
        ["pipeline.stages.prune.sparsity", "0.8", "0.5"],
    ]
    assert {row[0] for row in comparison.metrics.texts[1:]} == {"a / b"}


def test_compare_runs_without_a_common_seed() -> None:
    comparison = compare_runs(make_runs("a", range(2)), make_runs("a", range(2, 4)), NAMES)
    assert {row[4] for row in comparison.metrics.texts[1:]} == {"no seed in common"}


def test_compare_runs_without_a_common_row() -> None:
    two_rows = [*make_runs("a"), *make_runs("c", sparsity=0.5)]
    with pytest.raises(BadInput, match=r"no row in common\. The first has: a, c\. The second: b\."):
        compare_runs(two_rows, make_runs("b"), NAMES)
