"""Fixtures of the report's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lightexp.report import review
from lightexp.report.data import Report
from lightexp.report.runs import Run, name_rows
from lightexp.report.summary import build_summary
from lightexp.report.table_spec import PublishedRow, TableSpec
from lightexp.report.write import write_report
from tests.report.browser import Browser
from tests.synthetic import synthesize_record, synthesize_records
from tests.system_packages import require_program
from tests.tracking.conftest import make_record

__all__ = ["make_record"]

NASTY_NAME = '50% & $x_1$ </script> {a|b} ~^#\\ "q" <b> µ Ж'
"""A row's name with special characters of Markdown, LaTeX and HTML."""
SCRIPT_NAME = "</script><script>console.log('ran')</script><img src=x onerror=console.log('ran')> {{data}} "
SCRIPT_NAME += "& \"q\" 'q' \u2028 %$_#"
"""A row's name that tries to run a script."""


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


@pytest.fixture(scope="session")
def page_report() -> Report:
    """A report with a row and a claim that try to run a script."""
    scripted = (synthesize_record(SCRIPT_NAME, seed, sparsity=0.6, number=900 + seed) for seed in range(3))
    published = PublishedRow("Doe 2020", "Doe et al. 2020, table 2", {"accuracy/test": 0.96, "size/file_bytes": 30_000})
    spec = TableSpec("A <b>title</b>", claim=SCRIPT_NAME, control="control", margin=1.0, external=(published,))
    report = build_summary(name_rows([*synthesize_records(5), *scripted]), spec, {"b>a": "'a' cannot follow 'b'"})
    return replace(report, questions=tuple(review.list_questions(report)), commands=("lightexp ablate x.yaml",))


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser that all tests of pages share."""
    browser = Browser(require_program("chromium"), tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture(scope="session")
def folder(page_report: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a written report."""
    folder = tmp_path_factory.mktemp("results")
    write_report(page_report, folder)
    return folder


@pytest.fixture
def page(browser: Browser, folder: Path) -> Browser:
    """The browser with the page freshly opened."""
    browser.complaints.clear()
    browser.open(f"file://{folder}/index.html")
    return browser


@pytest.fixture
def resize(browser: Browser) -> Iterator[Callable[[int], None]]:
    """Give the browser's window another width, until the end of the test."""

    def set_width(width: int) -> None:
        browser.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)

    yield set_width
    browser.call("Emulation.clearDeviceMetricsOverride")
