"""The settings of the MLflow mirror, and stores that cannot be used."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from lightexp.core.config import build, locate
from lightexp.core.errors import BadInput
from lightexp.tracking import fetch, stores
from lightexp.tracking.mirror import Tracking
from lightexp.tracking.mlflow import Mlflow, find_recorded_place
from tests.tracking.helpers import ROOT

BUSY_S = 30.0  # for what takes seconds, on a busy machine; MLflow by itself tries for minutes


def test_mirror_reports_an_absent_server_once(free_port, make_record, messages, sync, run_folder, capfd):
    mirror = Mlflow(uri=f"http://127.0.0.1:{free_port}").open_mirror(run_folder, messages.append)
    stores.import_mlflow()
    start = time.perf_counter()
    for _ in range(2):
        record = make_record()
        sync(mirror, record)
        record.status = "done"
        sync(mirror, record)
        assert record.mlflow["missing"] == "Connection refused"
        assert "run_id" not in record.mlflow
    assert time.perf_counter() - start < BUSY_S
    assert not mirror.is_reachable
    assert len(messages) == 1
    assert str(free_port) in messages[0]
    assert "Connection refused" in messages[0]
    assert "lightexp track sync" in messages[0]
    assert "\n" not in messages[0]
    assert capfd.readouterr() == ("", "")


def test_mirror_gives_up_a_silent_server_in_seconds(make_record, messages, sync, run_folder):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        mirror = Mlflow(uri=f"http://127.0.0.1:{silent.getsockname()[1]}").open_mirror(run_folder, messages.append)
        record = make_record(status="done")
        stores.import_mlflow()
        start = time.perf_counter()
        sync(mirror, record)
        sync(mirror, record)
        assert time.perf_counter() - start < BUSY_S
    assert len(messages) == 1
    assert record.mlflow["missing"]
    assert not [name for name in os.environ if name.startswith("MLFLOW_HTTP")]


@pytest.mark.parametrize("trouble", ["no database", "a folder", "no outputs"])
def test_mirror_reports_an_unusable_store(tmp_path, make_record, messages, sync, capfd, trouble):
    outputs = tmp_path / "outputs"
    if trouble == "no outputs":
        outputs.write_text("a file where the folder should be")
    elif trouble == "a folder":
        (outputs / "mlflow.db").mkdir(parents=True)
    else:
        outputs.mkdir()
        (outputs / "mlflow.db").write_text("not a database" * 100)
    record = make_record()
    stores.import_mlflow()
    start = time.perf_counter()
    sync(Mlflow().open_mirror(outputs, messages.append), record)
    assert time.perf_counter() - start < BUSY_S
    assert len(messages) == 1
    assert record.mlflow["missing"] in messages[0]
    assert capfd.readouterr() == ("", "")


def test_deleted_experiment_is_named_with_its_remedy(tmp_path, copy_database, make_record, messages, sync):
    copy_database(tmp_path)
    mirror = Mlflow().open_mirror(tmp_path, messages.append)
    client = stores.import_mlflow().MlflowClient(tracking_uri=mirror.uri)
    experiment_id = client.create_experiment("lightexp", artifact_location=(tmp_path / "artifacts").as_uri())
    client.delete_experiment(experiment_id)
    record = make_record(status="done")
    sync(mirror, record)
    remedy = f"MLFLOW_TRACKING_URI={mirror.uri} mlflow experiments restore -x {experiment_id}"
    assert len(messages) == 1
    assert f"'lightexp' was deleted. Set another name, or restore it: {remedy}. Records stay" in messages[0]
    with pytest.raises(BadInput, match="'lightexp' was deleted"):
        list(fetch.download_records(Mlflow(mirror.uri), []))
    client.restore_experiment(experiment_id)
    sync(Mlflow().open_mirror(tmp_path, messages.append), record)
    assert "run_id" in record.mlflow


@pytest.mark.parametrize("uri", ["mlruns", "file:///tmp/mlruns", "http://me:secret@host", ""])
def test_mlflow_refuses_unusable_addresses(uri):
    with pytest.raises(BadInput, match="tracking"):
        build({"_target_": "lightexp.tracking.mlflow.Mlflow", "uri": uri}, Tracking, "tracking")


@pytest.mark.parametrize(
    ("configured", "noted", "expected"),
    [
        (None, {}, "sqlite:////o/mlflow.db"),
        (None, {"uri": "http://there", "experiment": "e", "run_id": "1"}, "http://there"),
        ("sqlite:///x.db", {"uri": "sqlite:////old/x.db", "experiment": "e", "run_id": "1"}, "sqlite:////old/x.db"),
        ("http://a", {"uri": "http://a", "experiment": "e", "missing": "down"}, "http://a"),
        ("${oc.env:HOME}", {"uri": "http://a", "experiment": "e", "missing": "down"}, "http://a"),
    ],
)
def test_find_recorded_place_follows_the_record(make_record, configured, noted, expected):
    tracking = {"_target_": "lightexp.tracking.mlflow.Mlflow", "uri": configured, "experiment": "e"}
    record = make_record(config={"tracking": tracking}, mlflow=noted)
    assert find_recorded_place(record, Path("/o")) == Mlflow(expected, "e")


def test_find_recorded_place_believes_only_mlflow(make_record):
    from_environment = {"_target_": "lightexp.tracking.mlflow.Mlflow", "uri": "http://a/${oc.env:HOME}"}
    for tracking in (None, [], {}, {"_target_": "plugin.Tracking", "uri": "http://a"}, from_environment):
        assert find_recorded_place(make_record(config={"tracking": tracking}), Path("/o")) is None
    for wrong in ({"uri": ["x"]}, {"uri": "folder"}, {"experiment": 3}):
        record = make_record(config={"tracking": {"_target_": "lightexp.tracking.mlflow.Mlflow", **wrong}})
        with pytest.raises(BadInput, match="tracking"):
            find_recorded_place(record, Path("/o"))


def test_configs_hold_exactly_the_settings():
    for path in (ROOT / "conf" / "tracking").glob("*.yaml"):
        node = yaml.safe_load(path.read_text())
        assert build(node, Tracking, "tracking") == locate(node["_target_"], "tracking")()
        assert set(node) - {"_target_"} == {f.name for f in fields(locate(node["_target_"], "tracking"))}


def test_mlflow_is_not_imported_before_its_use():
    code = (
        "import sys, pathlib\nfrom lightexp.tracking.mlflow import Mlflow\nimport lightexp.report.tradeoff\n"
        "Mlflow().open_mirror(pathlib.Path('x'), print)\n"
        "assert not {'mlflow', 'sqlalchemy', 'matplotlib'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, cwd=ROOT)


def test_tracking_draws_nothing():
    for path in Path(ROOT / "lightexp" / "tracking").glob("*.py"):
        assert "matplotlib" not in path.read_text()
