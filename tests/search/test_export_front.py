"""The table of a study's front."""

from __future__ import annotations

from collections.abc import Callable

from lightexp.search.export_front import FrontPoint, build_front_table
from lightexp.search.study_spec import StudySpec
from lightexp.search.study_status import compute_status

METRICS = {"accuracy/val": 0.9, "latency/p50_us": 2.0, "latency/p95_us": 2.5, "latency/spread": 0.5}


def test_front_table_marks_doubtful_latencies(make_spec: Callable[..., StudySpec]) -> None:
    points = [FrontPoint(3, ["a=1"], METRICS), FrontPoint(7, ["a=2"], {**METRICS, "latency/spread": 0.0})]
    spec = make_spec("measure=default", "search.objectives=[accuracy/val,latency/p50_us]")
    table = build_front_table(spec, compute_status([], spec.objectives), points)
    column = table.texts[0].index("p50 µs")
    assert [line[column] for line in table.texts[1:]] == ["2.0‡", "2.0"]
    assert table.notes == ("‡ doubtful latency (noisy): 3",)
    without = make_spec("search.objectives=[accuracy/val,size/file_bytes]")
    assert not build_front_table(without, compute_status([], without.objectives), points).notes
