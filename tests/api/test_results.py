"""The results of searches and reports, read from their folders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lightexp.api.results import ReportResult, SearchResult

POINT = {"trial": 7, "varied": ["a=1", "b=2"], "command": "lightexp run", "config": "trial_0007.yaml"}


@pytest.mark.parametrize("key", ["metrics", "figures"])
def test_search_result_shows_the_front(key: str, tmp_path: Path) -> None:
    front = [{**POINT, key: {"accuracy/val": 0.5}}]
    (tmp_path / "front.json").write_text(json.dumps({"front": front}))
    result = SearchResult(tmp_path)
    assert result.frame.to_dict("records") == [
        {"trial": 7, "picks": "", "varied": "a=1 b=2", "command": "lightexp run", "accuracy/val": 0.5}
    ]
    assert result.files == [tmp_path / "front.json"]
    assert "<td>a=1 b=2</td>" in result._repr_html_()


def test_search_result_may_have_an_empty_front(tmp_path: Path) -> None:
    (tmp_path / "front.json").write_text('{"front": []}')
    frame = SearchResult(tmp_path).frame
    assert (len(frame), list(frame.columns)) == (0, ["trial", "picks", "varied", "command"])


def test_report_result_shows_means_over_seeds(tmp_path: Path) -> None:
    (tmp_path / "runs.csv").write_text("id,row,seed,accuracy/val\nx,<int8>,0,0.4\ny,<int8>,1,0.6\n")
    (tmp_path / "table.csv").write_text("row,kind,measurement,n,mean\n<int8>,,accuracy/val,2,0.5\n")
    result = ReportResult(tmp_path)
    assert list(result.frame["seed"]) == [0, 1]
    assert list(result.statistics["mean"]) == [0.5]
    assert result.page == tmp_path / "index.html"
    html = result._repr_html_()
    assert "&lt;int8&gt;" in html and "0.5" in html
