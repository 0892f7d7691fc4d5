"""The page in a real browser: it opens without errors, sorts, filters, selects, and runs nothing from a name."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from lightexp.report.data import Report
from lightexp.report.html import render_page
from tests.report.browser import Browser, read_column
from tests.report.conftest import SCRIPT_NAME


def test_page_opens_and_shows_names_as_text(page: Browser) -> None:
    assert page.complaints == []
    assert page.evaluate("document.querySelectorAll('script').length") == 2
    assert page.evaluate("document.querySelector('#title').textContent") == "A <b>title</b>"
    assert SCRIPT_NAME in read_column(page, "#table", 0)
    assert page.evaluate("document.querySelectorAll('#figures img').length") == 4
    assert page.evaluate("[...document.querySelectorAll('#figures img')].every((i) => i.naturalWidth > 100)")
    assert len(read_column(page, "#runs", 0)) == 28
    assert page.evaluate("document.querySelectorAll('#asked li').length") >= 2
    assert "lightexp ablate x.yaml" in page.evaluate("document.querySelector('#commands').textContent")
    assert page.evaluate("document.querySelectorAll('#statistics tbody tr').length") == 7
    assert page.evaluate("document.querySelector('#boards').hidden")  # the runs were checked against none


def test_page_ranks_the_best_and_the_second(page: Browser) -> None:
    ranked = "[...document.querySelectorAll('#table td.{}')].map((cell) => cell.parentNode.children[0].textContent)"
    assert "both, harder" in page.evaluate(ranked.format("first"))
    assert "both" in page.evaluate(ranked.format("second"))


def test_page_reaches_nothing_outside(page: Browser) -> None:
    request = "fetch('http://127.0.0.1:9/').then(() => 'reached', () => 'refused')"
    assert page.evaluate(request) == "refused"
    page.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.ran = 1'}))"
    )
    assert page.evaluate("window.ran === undefined")
    assert any("Content Security Policy" in complaint for complaint in page.complaints)


def test_page_sorts_by_a_heading(page: Browser) -> None:
    click = "document.querySelectorAll('#runs th button')[{}].click()"
    page.evaluate(click.format(3))  # accuracy: the best first
    accuracies = [float(text.rstrip("%")) for text in read_column(page, "#runs", 3)]
    assert accuracies == sorted(accuracies, reverse=True)
    assert len(set(accuracies)) > 5
    page.evaluate(click.format(3))
    assert [float(text.rstrip("%")) for text in read_column(page, "#runs", 3)] == sorted(accuracies)
    assert page.evaluate("document.querySelectorAll('#runs th')[3].getAttribute('aria-sort')") == "ascending"
    page.evaluate("document.querySelectorAll('#table th button')[0].click()")
    names = read_column(page, "#table", 0)
    assert names.index("both") < names.index("control") < names.index("prune")


def test_page_filters_by_text_and_by_metrics(page: Browser) -> None:
    fill = (
        "((box) => {{ box.value = {1}; box.dispatchEvent(new Event('input')); }})(document.querySelector('{0} input'))"
    )
    page.evaluate(fill.format("#runs", json.dumps("quantize seed=3")))
    assert read_column(page, "#runs", 0) == ["quantize", "both", "both, harder"]  # settings name the stage
    page.evaluate(fill.format("#runs", json.dumps("size/file_bytes<21000")))
    assert read_column(page, "#runs", 0) == ["both, harder"] * 5
    page.evaluate(fill.format("#runs", json.dumps("no such thing")))
    assert read_column(page, "#runs", 0) == []
    page.evaluate(fill.format("#table", json.dumps("accuracy/test>=0.9667")))
    assert read_column(page, "#table", 0) == ["control", "prune", "quantize"]


def test_page_filters_by_metrics_of_any_name(page: Browser) -> None:
    item = "{value: (name) => ({'top-5@1': 0.5, seed: 0})[name] ?? null, searchText: 'a=b x-1<y'}"
    for query, is_shown in (
        ("top-5@1>=0.5", True),
        ("top-5@1<5e-1", False),
        ("top-5@1<.6", True),
        ("seed=0", True),
        ("seed=+1", False),
        ("a=b", True),
        ("x-1<y", True),
        ("a=1", False),
        ("seed=1.2.3", False),
    ):
        assert page.evaluate(f"makeFilter({json.dumps(query)})({item})") is is_shown, query


def test_page_compares_what_is_clicked(page: Browser) -> None:
    page.evaluate("document.querySelector('#front').scrollIntoView({behavior: 'instant'})")
    middle = "(({x, y, width, height}) => [x + width / 2, y + height / 2])"
    x, y = page.evaluate(f"{middle}(document.querySelectorAll('#front .mark')[1].getBoundingClientRect())")
    page.click(x, y)
    assert page.evaluate("document.querySelector('#tip').hidden") is False
    assert "pipeline.stages.quantize.epochs=10" in page.evaluate("document.querySelector('#tip').textContent")
    page.evaluate("document.querySelectorAll('#runs tbody tr')[21].click()")
    headings = page.evaluate("[...document.querySelectorAll('#compare th')].map((h) => h.textContent)")
    assert len(headings) == 3
    assert headings[2] == "both, harder, seed 1"
    compared = dict(zip(read_column(page, "#compare", 0), read_column(page, "#compare", 2), strict=True))
    assert compared["pipeline.stages.prune.sparsity"] == "0.95"
    assert page.evaluate("document.querySelectorAll('#runs tr.selected').length") == 2
    page.evaluate("document.querySelector('#runs .tools button').click()")
    assert page.evaluate("document.querySelectorAll('tr.selected, .plot .selected').length") == 0


@pytest.mark.parametrize("width", [1400, 390])
def test_page_fits_its_window_or_says_what_is_beside_it(
    browser: Browser, folder: Path, resize: Callable[[int], None], width: int
) -> None:
    resize(width)
    browser.open(f"file://{folder}/index.html")
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    headings = browser.evaluate(
        "[...document.querySelectorAll('#table th')].map((h) => [h.textContent, h.getBoundingClientRect().right])"
    )
    names = [name for name, _ in headings]
    assert names[names.index("Accuracy test") + 1] == "Δ accuracy (pp)"
    beyond = [name for name, right in headings if right > width]
    cue = browser.evaluate("document.querySelector('#table .cue').textContent")
    if width == 1400:
        assert beyond == []
        assert cue == ""
        assert browser.evaluate("document.querySelector('#front svg').clientWidth") > 1200
    else:
        assert cue.startswith(f"{len(beyond)} more columns → scroll")
        browser.evaluate("document.querySelector('#table .wide').scrollTo(10000, 0)")
        shown = "new Promise((done) => setTimeout(() => done(document.querySelector('#table .cue').textContent), 100))"
        assert browser.evaluate(shown) == ""
        left = browser.evaluate("document.querySelector('#table td').getBoundingClientRect().left")
        assert 0 <= left < 50  # names stay


def test_page_leaves_out_statistics_that_no_row_has(page: Browser) -> None:
    heads = page.evaluate("[...document.querySelectorAll('#statistics th')].map((head) => head.textContent)")
    assert {"Row", "n", "Mean", "Std", "Difference"} <= set(heads)
    assert not {"IQM", "Bootstrap 95%"} & set(heads)  # fewer than ten seeds
    assert len(read_column(page, "#statistics", len(heads) - 1)) == 7


def test_render_page_data_cannot_end_their_script(page_report: Report) -> None:
    text = render_page(page_report, {})
    assert text.count("</script>") == 2
    assert "{{" not in re.sub(r"<script type=.application/json.*?</script>", "", text, flags=re.S)
    match = re.search(r'id="data">(.*?)</script>', text, re.S)
    assert match is not None
    data = json.loads(match[1])
    assert data["claim"] == SCRIPT_NAME
    assert data["runs"]["count"] == 28
    rows = len(page_report.rows)
    assert f"All {rows} rows of the table are in table.csv, and all 28 runs in runs.csv.</noscript>" in text
