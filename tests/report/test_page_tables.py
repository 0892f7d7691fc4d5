"""The tables of a page in a real browser: long ones, the keyboard, and print."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest

from lightexp.report.html import render_page
from lightexp.report.runs import name_rows
from lightexp.report.summary import build_summary
from lightexp.report.table_spec import TableSpec
from tests.report.browser import SETTLE, Browser, press, read_column
from tests.synthetic import synthesize_record

MANY_RUNS = 2_000
TIME_LIMIT_S = 10  # generous, for a busy machine; benchmarks measure the page's speed


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


def test_long_table_goes_on_from_a_clicked_row(long_page: Browser) -> None:
    focused = "Number(document.activeElement.getAttribute('aria-rowindex'))"
    long_page.evaluate(
        "(place => { place.scrollIntoView({behavior: 'instant', block: 'center'}); place.scrollTop = 6000; })"
        "($('#table .wide'))"
    )
    long_page.evaluate(SETTLE)
    middle = "(box => [box.x + 20, box.y + box.height / 2])($('#table .wide').getBoundingClientRect())"
    long_page.click(*long_page.evaluate(middle))
    clicked = long_page.evaluate(focused)
    assert clicked > 100
    press(long_page, "ArrowDown")
    assert long_page.evaluate(focused) == clicked + 1
    long_page.evaluate("$('#runs .wide').focus()")
    press(long_page, "End")
    long_page.evaluate("$('#runs .wide').focus()")
    press(long_page, "Enter")  # no row has the focus
    assert long_page.evaluate("selected.size") == 0
    assert long_page.complaints == []
    long_page.evaluate("selected.clear(); refresh(); $('#table .wide').scrollTop = 0")


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
    long_page.evaluate(SETTLE)
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
