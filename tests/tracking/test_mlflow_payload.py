"""Values of a record that MLflow accepts."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lightexp.core.columns import COLUMNS
from lightexp.core.metrics import Metric
from lightexp.core.record import StageRecord
from lightexp.tracking import mlflow_payload, stores

AWKWARD_NAMES = [
    "",
    ".",
    "..",
    "/",
    "a//b",
    "a/../b",
    "../a",
    "/a",
    "a/",
    "a\n",
    "acc@1",
    "x[0].y",
    "+a",
    "a b",
    "é",
    "\ud800",
]


@pytest.fixture(scope="module")
def validation():
    stores.import_mlflow()
    import mlflow.utils.validation

    return mlflow.utils.validation


@settings(deadline=None)
@given(
    st.one_of(
        st.text(), st.text("ab./ -_@+\n", max_size=8), st.sampled_from(AWKWARD_NAMES), st.text("a.", min_size=240)
    )
)
@example("a" * 251)
@example("a" * 240 + "/..")
def test_sanitize_key_returns_a_name_mlflow_accepts(validation, name):
    key = mlflow_payload.sanitize_key(name)
    validation._validate_param(key, "1")
    validation._validate_metric(key, 1.0, 0, 0)
    validation._validate_tag(key, "1")
    assert len(key) <= 250
    assert key.isascii()
    assert mlflow_payload.sanitize_key(key) == key


@given(st.text("ab./@+ ", max_size=6), st.text("ab./@+ ", max_size=6))
@example("a+b", "a=b")
@example("a//b", "a/b")
@example("x" * 300, "x" * 301)
def test_sanitize_key_keeps_names_distinct(first, second):
    assert (mlflow_payload.sanitize_key(first) == mlflow_payload.sanitize_key(second)) == (first == second)


@pytest.mark.parametrize(
    "name", ["accuracy/val", "train/prune/loss", "pipeline.stages.prune.sparsity", "lightexp.run_id"]
)
def test_sanitize_key_keeps_sound_names(name):
    assert mlflow_payload.sanitize_key(name) == name


@given(st.text(), st.integers(1, 20))
def test_format_value_cuts_text_and_can_be_stored(value, limit):
    text = mlflow_payload.format_value(value, limit)
    text.encode()
    assert len(text) <= limit
    assert "\0" not in text


def test_build_params_is_flat_and_keeps_values():
    config = {"a": {"b": True, "c": {}, "d": [1, "x"], "e": None}, "f*": 0.5, "f+": "0.5", "long": "x" * 7000}
    params = mlflow_payload.build_params(config)
    assert params["a.b"] == "true"
    assert params["a.c"] == "{}"
    assert params["a.d"] == '[1, "x"]'
    assert params["a.e"] == "null"
    assert len(params) == 7
    assert len(params["long"]) == 6000


def test_list_points_skips_what_is_no_number(make_record):
    record = make_record()
    record.stages.append(StageRecord("odd", "k", True, 0.0, [], {"history": {"flag": [True], "word": ["x"]}}))
    points = mlflow_payload.list_points(record, "all")
    assert all(math.isfinite(p.value) for p in points)
    assert not [p for p in points if p.key.startswith("train/odd") or "loss/test" in p.key]


def test_list_points_has_each_key_once(make_record):
    record = make_record()
    record.stages[-1].metrics += [Metric("accuracy/val", 0.5), Metric("accuracy/val", 0.25)]
    points = mlflow_payload.list_points(record, "all")
    assert len({(point.key, point.step) for point in points}) == len(points)
    values = {point.key: point.value for point in points if "accuracy/val" in point.key}
    assert values["accuracy/val"] == values["stage/quantize/accuracy/val"] == 0.25


def test_list_points_selects_at_most_thirty(make_record):
    history = {"loss": [0.5], "accuracy": [0.5], "val_loss": [0.5], "val_accuracy": [0.5]}
    metrics = [Metric(column.name, 1.0) for column in COLUMNS] + [Metric(f"fits/{n}", 1.0) for n in range(200)]
    record = make_record(stages=[StageRecord(f"s{n}", "k", True, 0.0, metrics, {"history": history}) for n in range(9)])
    names = [point.key for point in mlflow_payload.list_points(record)]
    assert len(names) == mlflow_payload.MAIN_METRICS
    assert set(names) >= {column.name for column in COLUMNS}
    assert "train/s0/val_accuracy" in names
    assert len(mlflow_payload.list_points(record, "all")) > 2000


def test_build_run_name_tells_rows_jobs_and_seeds_apart(make_record):
    record = make_record()
    assert mlflow_payload.build_run_name(record) == "small_cnn on digits: prune_quantize · seed 3"
    record.tags = {"sweep": "2026-01-01", "job": "prune.sparsity=0.5"}
    assert mlflow_payload.build_run_name(record) == "prune.sparsity=0.5 · seed 3"
    record.tags = {"sweep": "2026-01-01"}
    assert mlflow_payload.build_run_name(record) == "small_cnn on digits: prune_quantize · seed 3"
    record.tags = {"ablation": "article", "row": "prune+qat"}
    assert mlflow_payload.build_run_name(record) == "prune+qat · seed 3"


def test_build_note_leaves_out_rows_over_the_limit():
    rows = [f"| {n} | {'x' * 90} |" for n in range(200)]
    note = mlflow_payload.build_note("\n".join(rows), "Made today.")
    assert len(note) <= mlflow_payload.TAG_CHARS
    shown = note.count("| x")
    assert 50 < shown < 200
    assert note.endswith(f"\n\n{200 - shown} more rows are in table.md. Made today.")


def test_build_tags_leaves_out_what_is_unknown(make_record):
    tags = mlflow_payload.build_tags(make_record(environment={}, config={}, varied=[]))
    assert "mlflow.source.git.commit" not in tags
    assert "lightexp.reason" not in tags
    assert "lightexp.seed" not in tags


@given(st.dictionaries(st.text(max_size=9), st.text(max_size=50), max_size=250))
def test_split_batches_loses_nothing(values):
    batches = list(mlflow_payload.split_batches(values, 100))
    assert all(0 < len(batch) <= 100 for batch in batches)
    assert {k: v for batch in batches for k, v in batch.items()} == values


def test_two_batches_fit_into_a_request():
    batches = list(mlflow_payload.split_batches({str(n): "é" * 6000 for n in range(100)}, 100))
    assert sum(map(len, batches)) == 100
    assert all(len(json.dumps([{"key": k, "value": v} for k, v in batch.items()])) < 500_000 for batch in batches)


def test_build_tags_holds_notes_of_the_shipped_file(make_record):
    record = make_record(environment={"host": "here", "processor": "this one"})
    record.stages[0].notes["micro/runs"] = "of another file"
    record.stages[-1].notes["fits/board"] = "it is too large"
    tags = mlflow_payload.build_tags(record)
    assert {name: note for name, note in tags.items() if name.startswith("note/")} == {
        "note/fits/board": "it is too large"
    }
    assert (tags["lightexp.host"], tags["lightexp.processor"]) == ("here", "this one")
