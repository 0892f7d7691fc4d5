"""Records of wrong types and sizes: each is named in one line and left out, and the report of the others is made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lightexp.core.errors import BadInput
from lightexp.core.record import RECORD_FILE, Record, read_record
from lightexp.report.runs import iterate_records, name_rows
from tests.fuzz import mutate
from tests.report.record_views import make_tree, show
from tests.run_records import load_records

MAX_LINE = 600


def read_or_refuse(folder: Path) -> Record | None:
    """Return a record, or None if it was refused in one short line."""
    try:
        return read_record(folder)
    except BadInput as error:
        line = str(error)
    assert len(line) < MAX_LINE and "is not a record: " in line
    return None


def test_mutants_are_shown_or_refused_in_one_line(tmp_path: Path, mutants: int) -> None:
    shown = 0
    for change, mutant in mutate(make_tree(tmp_path), mutants):
        (tmp_path / RECORD_FILE).write_text(json.dumps(mutant), encoding="utf-8")
        record = read_or_refuse(tmp_path)
        if record is None:
            continue
        shown += 1
        try:
            show(record, tmp_path)
        except Exception as error:
            raise AssertionError(change) from error
    assert shown


def test_mutants_of_the_first_format_are_refused_in_one_line(tmp_path: Path, mutants: int) -> None:
    tree = json.loads((Path(__file__).parents[1] / "core" / "format_1" / "control.json").read_text(encoding="utf-8"))
    for _, mutant in mutate(tree, mutants, seed=1):
        (tmp_path / RECORD_FILE).write_text(json.dumps(mutant), encoding="utf-8")
        read_or_refuse(tmp_path)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"format": 2, "config": ' + '{"a": ' * 500 + "1" + "}" * 501])
def test_record_nested_without_end_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / RECORD_FILE).write_text(text, encoding="utf-8")
    with pytest.raises(BadInput, match="is not a record: it is nested"):
        read_record(tmp_path)


def test_broken_record_is_left_out_of_the_report(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    tree = make_tree(tmp_path / "other")
    for name, seed in (("good", 1), ("bad", "one")):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        values = {**tree, "id": name, "config": {**tree["config"], "seed": seed}}
        (folder / RECORD_FILE).write_text(json.dumps(values), encoding="utf-8")
    problems: list[str] = []
    assert [run.id for run in name_rows(iterate_records([tmp_path], problems))] == ["good"]
    path = tmp_path / "runs" / "bad" / RECORD_FILE
    [line] = problems
    assert line == (
        f"{path} is not a record: config.seed: Input should be a valid integer. Received: 'one'. "
        "Run it again, or leave its folder out."
    )
    assert load_records(tmp_path)[1] == problems
