"""Files of a report's folder."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from lightexp.core.errors import BadInput
from lightexp.report.data import Report
from lightexp.report.summary import build_summary
from lightexp.report.table_spec import TableSpec
from lightexp.report.write import write_report


def test_write_report_embeds_the_plots_in_the_page(report: Report, tmp_path: Path) -> None:
    page, *files = write_report(report, tmp_path / "results")
    assert page.name == "index.html"
    names = {path.name for path in files}
    assert {"table.md", "table.tex", "table.csv", "runs.csv", "front.svg", "front.pdf"} <= names
    assert base64.b64encode((tmp_path / "results" / "front.svg").read_bytes()).decode() in page.read_text()
    assert {path.name for path in (tmp_path / "results").iterdir()} == {page.name, *names}  # no draft is left


def test_report_of_nothing_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(BadInput):
        write_report(build_summary([], TableSpec("x")), tmp_path / "results")
    assert not (tmp_path / "results").exists()
