"""The page in a real browser: it opens without errors, sorts, filters, selects, and runs nothing from a name."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lightexp.report import review
from lightexp.report.data import Report
from lightexp.report.html import render_page
from lightexp.report.runs import name_rows
from lightexp.report.summary import build_summary
from lightexp.report.table_spec import PublishedRow, TableSpec
from lightexp.report.write import write_report
from tests.report.browser import Browser
from tests.synthetic import synthesize_record, synthesize_records
from tests.system_packages import require_program

SCRIPT_NAME = "</script><script>console.log('ran')</script><img src=x onerror=console.log('ran')> {{data}} "
SCRIPT_NAME += "& \"q\" 'q' \u2028 %$_#"
MANY_RUNS = 2_000
TIME_LIMIT_S = 10  # generous, for a busy machine; benchmarks measure the page's speed


@pytest.fixture(scope="module")
def page_report() -> Report:
    """A report with a row and a claim that try to run a script."""
    scripted = (synthesize_record(SCRIPT_NAME, seed, sparsity=0.6, number=900 + seed) for seed in range(3))
    published = PublishedRow("Doe 2020", "Doe et al. 2020, table 2", {"accuracy/test": 0.96, "size/file_bytes": 30_000})
    spec = TableSpec("A <b>title</b>", claim=SCRIPT_NAME, control="control", margin=1.0, external=(published,))
    report = build_summary(name_rows([*synthesize_records(5), *scripted]), spec, {"b>a": "'a' cannot follow 'b'"})
    return replace(report, questions=tuple(review.list_questions(report)), commands=("lightexp ablate x.yaml",))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser that all tests of this file share."""
    browser = Browser(require_program("chromium"), tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
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


def read_column(browser: Browser, section: str, index: int) -> list[str]:
    """Return the texts in one column of a section's table."""
    rows = f"[...document.querySelectorAll('{section} tbody:not(.gap) tr')]"
    texts: list[str] = browser.evaluate(f"{rows}.map((row) => row.children[{index}].textContent)")
    return texts


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


def test_short_table_is_read_by_keyboard(page: Browser) -> None:
    page.evaluate("document.documentElement.style.scrollBehavior = 'auto'; $('#runs .wide').focus()")
    assert page.evaluate("$('#runs .wide').getAttribute('aria-label')") == "Runs: arrow keys move, Enter selects"
    focused = "[...$('#runs tbody').children].indexOf(document.activeElement)"
    for key, index in (("ArrowDown", 0), ("ArrowDown", 1), ("End", 27), ("ArrowUp", 26), ("PageUp", None), ("Home", 0)):
        press(page, key)
        position = page.evaluate(focused)
        assert position == index or (index is None and 5 < position < 20)
        top, bottom = page.evaluate(
            "(({top, bottom}) => [top, bottom])(document.activeElement.getBoundingClientRect())"
        )
        assert top >= 0 and bottom <= page.evaluate("innerHeight")  # the row is in view
    press(page, "Enter")
    assert page.evaluate("selected.has(runs[0])") and page.evaluate(focused) == 0
    page.evaluate("$('#runs tbody').children[4].focus()")  # as a click does
    press(page, "ArrowDown")
    press(page, "Enter")
    assert page.evaluate("[...selected].map((run) => run.index)") == [0, 5]
    assert len(read_column(page, "#compare", 2)) > 3
    assert page.evaluate("$('#statistics .wide').hasAttribute('tabindex')") is False  # nothing to select


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


@pytest.fixture
def resize(browser: Browser) -> Iterator[Callable[[int], None]]:
    """Give the browser's window another width, until the end of the test."""

    def set_width(width: int) -> None:
        browser.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)

    yield set_width
    browser.call("Emulation.clearDeviceMetricsOverride")


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


@pytest.fixture(scope="module")
def long_page(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Browser:
    """The browser with a page of 2,000 runs in 500 rows, opened once."""
    made = [
        synthesize_record(f"row {n // 4}", n % 4, sparsity=0.1 + n // 4 / 1_000, number=n) for n in range(MANY_RUNS)
    ]
    path = tmp_path_factory.mktemp("long") / "index.html"
    path.write_text(render_page(build_summary(name_rows(made), TableSpec("many")), {}))
    browser.complaints.clear()
    start = time.perf_counter()
    browser.open(f"file://{path}")
    assert time.perf_counter() - start < TIME_LIMIT_S
    return browser


SETTLE = "new Promise((done) => requestAnimationFrame(() => setTimeout(done, 50)))"


def press(browser: Browser, key: str) -> None:
    """Press and release a key, and wait until the page has answered."""
    for kind in ("rawKeyDown", "keyUp"):
        browser.call("Input.dispatchKeyEvent", type=kind, key=key, code=key)
    browser.evaluate(SETTLE)


def test_long_tables_hold_the_rows_in_view(long_page: Browser) -> None:
    assert long_page.complaints == []
    for section, count in (("#runs", MANY_RUNS), ("#table", 501), ("#statistics", 501)):
        assert 10 < len(read_column(long_page, section, 0)) < 120
        assert long_page.evaluate(f"document.querySelector('{section} table').getAttribute('aria-rowcount')") == str(
            count + 1
        )
        height, row = long_page.evaluate(
            f"[document.querySelector('{section} table').offsetHeight,"
            f" document.querySelector('{section} tbody:not(.gap) tr').getBoundingClientRect().height]"
        )
        assert height == pytest.approx(count * row, rel=0.05)  # the scroll bar is that of the whole table
    long_page.evaluate("document.querySelector('#runs .wide').scrollTop = 1000 * 30")
    long_page.evaluate(SETTLE)
    indices = [
        int(text)
        for text in long_page.evaluate(
            "[...document.querySelectorAll('#runs tbody:not(.gap) tr')].map((row) => row.getAttribute('aria-rowindex'))"
        )
    ]
    assert indices == list(range(indices[0], indices[-1] + 1))
    assert 800 < indices[0] < indices[-1] < 1200
    names = read_column(long_page, "#runs", 0)
    assert names[0] == f"row {(indices[0] - 2) // 4}"


def test_long_table_sorts_and_filters_all_rows(long_page: Browser) -> None:
    click = "document.querySelectorAll('#runs th button')[{}].click()"
    long_page.evaluate("document.querySelector('#runs .wide').scrollTop = 0")
    long_page.evaluate(click.format(3))
    shown = [float(text.rstrip("%")) for text in read_column(long_page, "#runs", 3)]
    best = long_page.evaluate("Math.max(...runs.map((run) => run.number(1)))")
    assert shown == sorted(shown, reverse=True)
    assert shown[0] == pytest.approx(100 * best, abs=0.01)
    fill = "((box) => {{ box.value = {0}; box.dispatchEvent(new Event('input')); }})($('#runs input'))"
    long_page.evaluate(fill.format(json.dumps("seed=3 trial-that-is-missing")))
    assert read_column(long_page, "#runs", 0) == []
    long_page.evaluate(fill.format(json.dumps("2026-01-01_00-00-00-0007cf")))
    assert read_column(long_page, "#runs", 0) == ["row 499"]  # a short result is drawn whole
    assert long_page.evaluate("$('#runs table').hasAttribute('aria-rowcount')") is False
    long_page.evaluate(fill.format('""'))
    assert long_page.evaluate("$('#runs table').getAttribute('aria-rowcount')") == str(MANY_RUNS + 1)


def test_long_table_is_read_by_keyboard(long_page: Browser) -> None:
    long_page.evaluate("document.querySelectorAll('#runs th button')[0].click(); $('#runs .wide').scrollTop = 0")
    long_page.evaluate("$('#runs .wide').focus()")
    focused = "Number(document.activeElement.getAttribute('aria-rowindex'))"
    for key, index in (("ArrowDown", 2), ("ArrowDown", 3), ("End", MANY_RUNS + 1), ("ArrowUp", MANY_RUNS), ("Home", 2)):
        press(long_page, key)
        assert long_page.evaluate(focused) == index
        box = long_page.evaluate(
            "(({top, bottom}) => [top, bottom])(document.activeElement.getBoundingClientRect()).concat("
            "(({top, bottom}) => [top, bottom])($('#runs .wide').getBoundingClientRect()))"
        )
        assert box[2] <= box[0] and box[1] <= box[3] + 1  # the row is in view
    press(long_page, "PageDown")
    assert 10 < long_page.evaluate(focused) < 40
    press(long_page, "Enter")
    assert long_page.evaluate("selected.size") == 1
    assert long_page.evaluate("document.activeElement.classList.contains('selected')")
    press(long_page, "Enter")
    assert long_page.evaluate("selected.size") == 0
    press(long_page, "End")
    fill = "((box) => {{ box.value = {0}; box.dispatchEvent(new Event('input')); }})($('#runs input'))"
    long_page.evaluate(fill.format(json.dumps("seed=0")))  # the last row is gone
    long_page.evaluate("$('#runs .wide').focus()")
    press(long_page, "Enter")
    long_page.evaluate(fill.format('""'))
    assert long_page.evaluate("selected.size") == 0


def test_long_statistics_of_another_metric_are_read_by_keyboard(long_page: Browser) -> None:
    long_page.evaluate(
        "((select) => { select.value = '0'; select.dispatchEvent(new Event('change')); })($('#statistics select'))"
    )
    long_page.evaluate(
        "((frame) => { const row = frame.querySelector('tbody:not(.gap) tr');"
        " frame.scrollTop = 100.5 * row.getBoundingClientRect().height;"
        " frame.focus({preventScroll: true}); })($('#statistics .wide'))"
    )
    long_page.evaluate(SETTLE)
    press(long_page, "ArrowDown")
    assert long_page.evaluate("Number(document.activeElement.getAttribute('aria-rowindex'))") == 102  # first in view
    assert long_page.evaluate("document.querySelectorAll('#statistics .printed').length") == 1


def test_many_points_are_one_picture_with_marks_of_the_front(long_page: Browser) -> None:
    marks = long_page.evaluate("document.querySelectorAll('#front .mark').length")
    assert 1 < marks < 100
    assert long_page.evaluate("document.querySelectorAll('#front circle').length") == 0
    assert f"Of 501 rows, {marks} are marks" in long_page.evaluate("$('#front .many').textContent")
    long_page.evaluate("$('#front').scrollIntoView({behavior: 'instant'})")
    x, y = long_page.evaluate(
        "(() => { selected.add(runs[700]); refresh();"
        " const dot = $('#front circle.selected').getBoundingClientRect(); selected.clear(); refresh();"
        " return [dot.x + dot.width / 2, dot.y + dot.height / 2]; })()"
    )
    long_page.click(x, y)
    assert long_page.evaluate("$('#tip').hidden") is False
    assert long_page.evaluate("selected.size") == 1
    long_page.evaluate("selected.clear(); refresh()")


def test_print_of_a_long_page_says_where_all_rows_are(long_page: Browser) -> None:
    long_page.call("Emulation.setEmulatedMedia", media="print")
    note = long_page.evaluate("$('#table .printed').innerText")
    height = long_page.evaluate("$('#table table').offsetHeight")
    long_page.call("Emulation.setEmulatedMedia", media="")
    assert note == "Of 501 rows, those in view were printed. All are in the CSV files next to this page."
    assert height < 5_000


def test_print_cuts_nothing_off(page: Browser, resize: Callable[[int], None]) -> None:
    page.evaluate("selected.add(runs[3]); refresh(); $('#table input').value = 'prune'")
    resize(718)  # the width of a page of A4
    page.call("Emulation.setEmulatedMedia", media="print")
    beyond = page.evaluate("[...document.querySelectorAll('.wide, pre')].map((f) => f.scrollWidth - f.clientWidth)")
    shown = page.evaluate(
        "['#statistics select', '#compare table', '#table input', '#runs', '#table .cue']"
        ".map((name) => $(name).getClientRects().length > 0)"
    )
    page.call("Emulation.setEmulatedMedia", media="")
    assert max(beyond) <= 0
    assert shown == [True, True, True, False, False]


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
