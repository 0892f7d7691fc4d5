"""Fixtures of the report's tests."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lightexp.report import review
from lightexp.report.data import Report
from lightexp.report.runs import Run, name_rows
from lightexp.report.summary import build_summary
from lightexp.report.table_spec import PublishedRow, TableSpec
from tests.synthetic import synthesize_record, synthesize_records
from tests.tracking.conftest import make_record

__all__ = ["make_record"]

NASTY_NAME = '50% & $x_1$ </script> {a|b} ~^#\\ "q" <b> µ Ж'
"""A row's name with special characters of Markdown, LaTeX and HTML."""


@pytest.fixture
def spec() -> TableSpec:
    """A table whose rows are compared with the row `control`."""
    return TableSpec("a_table", claim="Both are smaller.", control="control")


@pytest.fixture(scope="session")
def runs() -> list[Run]:
    """Five rows with five seeds each."""
    return name_rows(synthesize_records(5))


@pytest.fixture(scope="session")
def report() -> Report:
    """A report with a published row, a refused one, and one whose name has special characters."""
    nasty = (synthesize_record(NASTY_NAME, seed, sparsity=0.6, number=100 + seed) for seed in range(3))
    published = PublishedRow("Published & done", "Doe et al. 2020, table_2", {"accuracy/test": 0.98, "size/ratio": 40})
    spec = TableSpec("a_table", claim=f"Claim {NASTY_NAME}", control="control", external=(published,))
    report = build_summary(name_rows([*synthesize_records(5), *nasty]), spec, {"order a>b": "'b' cannot follow 'a'"})
    return replace(report, questions=tuple(review.list_questions(report)), commands=("lightexp ablate x.yaml",))
