"""What every mirror has in common: where a record says that its run is shown."""

from __future__ import annotations

import pytest

from lightexp.tracking.mirror import NoTracking, SyncResult

HERE = {"uri": "http://here", "experiment": "lightexp"}
THERE = {"uri": "http://there", "experiment": "lightexp"}


def test_no_tracking_mirrors_nothing(tmp_path, make_record, messages, sync, run_folder):
    record = make_record(status="done")
    before = sorted(path for path in tmp_path.rglob("*"))
    mirror = NoTracking().open_mirror(tmp_path, messages.append)
    assert not sync(mirror, record)
    mirror.close_running()
    assert messages == []
    assert record.mlflow == {"missing": "tracking=none"}
    assert sorted(path for path in tmp_path.rglob("*") if path.name != "record.json") == before


@pytest.mark.parametrize(
    ("noted", "place", "expected"),
    [
        ({}, {**HERE, "run_id": "1"}, {**HERE, "run_id": "1"}),
        ({**HERE, "missing": "down"}, {**HERE, "run_id": "1"}, {**HERE, "run_id": "1"}),
        ({**HERE, "missing": "down"}, {**THERE, "run_id": "1"}, {**THERE, "run_id": "1"}),
        ({**HERE, "run_id": "1"}, {**THERE, "run_id": "2"}, {**HERE, "run_id": "1"}),
        ({**HERE, "run_id": "1"}, {**HERE, "run_id": "1", "missing": "x"}, {**HERE, "run_id": "1", "missing": "x"}),
        ({**HERE, "run_id": "1"}, {"missing": "x"}, {**HERE, "run_id": "1", "missing": "x"}),
        ({}, {"missing": "tracking=none"}, {"missing": "tracking=none"}),
    ],
)
def test_note_in_says_where_a_run_is_shown(make_record, noted, place, expected):
    record = make_record(mlflow=dict(noted))
    assert SyncResult(place).note_in(record) == (expected != noted)
    assert record.mlflow == expected
