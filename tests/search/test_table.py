"""The recorded table that the benchmark `search_quality.py` compares searches on."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Callable

from lightexp.search.samplers import list_grid_values
from lightexp.search.study_spec import StudySpec
from tests.documents import ROOT

TABLE = ROOT / "experiments/benchmarks/search_table/table.csv"


def test_recorded_table_holds_every_configuration_once(make_spec: Callable[..., StudySpec]) -> None:
    with TABLE.open() as file:
        overrides = json.loads(file.readline().partition("search ")[2])
        header, *rows = csv.reader(file)
    parameters = make_spec(*overrides).make_space({}).parameters
    count = len(parameters)
    assert header[:count] == [p.name for p in parameters]
    assert [row[0] for row in rows[:2]] == ["control", "int8"]
    expected = itertools.product(*(map(str, map(p.from_optuna, list_grid_values(p))) for p in parameters))
    recorded = [tuple(row[:count]) for row in rows[2:]]
    assert len(recorded) >= 1_000
    assert sorted(recorded) == sorted(expected)
    results = [[int(value) for value in row[count:]] for row in rows[2:]]
    assert {len(row) for row in results} == {8}
    assert all(0 < right <= 800 for row in results for right in row[::2])
    assert all(1_000 < size < 20_000 for row in results for size in row[1::2])
    assert TABLE.stat().st_size < 300_000
