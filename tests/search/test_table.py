"""The recorded table that searches are compared on holds every configuration of its space, once."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Callable

from lightexp.search.samplers import list_grid_values
from lightexp.search.study_spec import StudySpec
from tests.readme import ROOT

TABLE = ROOT / "experiments/benchmarks/search_table/table.csv"


def test_every_configuration_is_there_once_with_real_figures(make_spec: Callable[..., StudySpec]) -> None:
    with TABLE.open() as file:
        words = json.loads(file.readline().partition("search ")[2])
        head, *rows = csv.reader(file)
    parameters = make_spec(*words).make_space({}).parameters
    count = len(parameters)
    assert head[:count] == [p.name for p in parameters]
    assert [row[0] for row in rows[:2]] == ["control", "int8"]
    points = itertools.product(*(map(str, map(p.from_optuna, list_grid_values(p))) for p in parameters))
    there = [tuple(row[:count]) for row in rows[2:]]
    assert len(there) >= 1_000
    assert sorted(there) == sorted(points)
    figures = [[int(value) for value in row[count:]] for row in rows[2:]]
    assert {len(row) for row in figures} == {8}
    assert all(0 < right <= 800 for row in figures for right in row[::2])
    assert all(1_000 < size < 20_000 for row in figures for size in row[1::2])
    assert TABLE.stat().st_size < 300_000
