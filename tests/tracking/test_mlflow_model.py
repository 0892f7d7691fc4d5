"""A run's `.tflite` as an MLflow model: what is stored, and that MLflow loads it."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightexp.core.record import Record
from lightexp.tracking.client import TrackingClient
from lightexp.tracking.mlflow import Mlflow, MlflowMirror
from lightexp.tracking.mlflow_model import find_model
from tests import stand_in_servers
from tests.tracking.helpers import ROOT, connect

TINY = ROOT / "tests" / "search" / "plugin" / "tiny.tflite"
LABELS = ["no", "maybe é", "yes: 1", "🦜"]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory, copy_database: Callable[[Path], None]) -> Path:
    outputs = tmp_path_factory.mktemp("models") / "outputs"
    copy_database(outputs)
    return outputs


@pytest.fixture
def mirror(outputs: Path, messages: list[str]) -> MlflowMirror:
    return Mlflow().open_mirror(outputs, messages.append)


@pytest.fixture
def record(make_record: Callable[..., Record], run_folder: Path) -> Record:
    """A run that is done, of a model that exists."""
    shutil.copyfile(TINY, run_folder / "model.tflite")
    record = make_record(status="done", ended=1_700_000_060.0)
    record.dataset |= {"shape": [8, 8, 1], "scale": 1 / 16, "offset": 0.0, "labels": LABELS}
    return record


def read_model(record: Record) -> tuple[Any, Any]:
    """Return MLflow's run and its model; the run must have one."""
    client = connect(record)
    run = client.get_run(record.mlflow["run_id"])
    (output,) = run.outputs.model_outputs
    return run, client.get_logged_model(output.model_id)


def test_model_is_loaded_by_mlflow_and_linked(
    record: Record, mirror: MlflowMirror, messages: list[str], sync: Callable[..., bool]
) -> None:
    assert sync(mirror, record)
    assert not sync(mirror, record)
    assert messages == []
    run, model = read_model(record)
    assert (model.name, str(model.status.value), model.source_run_id) == ("model", "READY", run.info.run_id)
    linked = {metric.key: metric.value for metric in model.metrics}
    assert linked == {name: run.data.metrics[name] for name in linked}
    assert {"accuracy/val", "size/file_bytes"} <= linked.keys()
    assert model.params["pipeline.stages.prune.sparsity"] == "0.5"
    assert model.params["seed"] == "3"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow warns about its own code
        import mlflow.pyfunc
    mlflow.set_tracking_uri(record.mlflow["uri"])
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    try:
        loaded = mlflow.pyfunc.load_model(f"runs:/{run.info.run_id}/model")
        assert loaded.metadata.metadata["labels"] == LABELS
        assert loaded.metadata.metadata["metrics"]["size/file_bytes"] == 28_240
        assert loaded.metadata.signature.inputs.inputs[0].shape == (-1, 8, 8, 1)
        example = loaded.input_example
        assert example.shape == (1, 8, 8, 1)
        assert loaded.predict(example).shape == (1, 4)
        assert loaded.predict(example, params={"labels": True})[0] in LABELS
        with pytest.raises(mlflow.MlflowException, match="shape"):
            loaded.predict(np.zeros((1, 4), np.float32))
    finally:
        del os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"]
        mlflow.set_tracking_uri(None)


def test_interrupted_model_is_completed_and_older_runs_get_one(
    record: Record,
    outputs: Path,
    messages: list[str],
    sync: Callable[..., bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert sync(Mlflow(model=False).open_mirror(outputs, messages.append), record)
    assert connect(record).get_run(record.mlflow["run_id"]).outputs.model_outputs == []

    def fail(*_: Any) -> None:
        raise OSError("it broke")

    with monkeypatch.context() as context:
        context.setattr(TrackingClient, "complete_model", fail)
        sync(Mlflow().open_mirror(outputs, messages.append), record)
    assert len(messages) == 1 and "it broke" in messages[0]
    assert str(read_model(record)[1].status.value) == "PENDING"
    assert sync(Mlflow().open_mirror(outputs, messages.append), record)
    _, model = read_model(record)
    assert str(model.status.value) == "READY"
    assert "accuracy/val" in {metric.key for metric in model.metrics}
    assert not sync(Mlflow().open_mirror(outputs, messages.append), record)
    assert len(messages) == 1


def test_run_with_a_model_takes_few_requests(
    record: Record, messages: list[str], sync: Callable[..., bool], run_folder: Path
) -> None:
    model = {"model_id": "m-1", "status": "LOGGED_MODEL_PENDING", "artifact_uri": "mlflow-artifacts:/7/models/m-1"}
    record.config |= {f"setting{number}": number for number in range(150)}  # more than fit into a request
    with stand_in_servers.serve() as server:
        server.answers["logged-models"] = lambda answer: {"model": {"info": {**model, "experiment_id": "7"}}}
        mirror = Mlflow(server.url).open_mirror(run_folder / "unused", messages.append)
        record.status = "running"
        sync(mirror, record)
        assert server.requests == ["experiments/get-by-name", "runs/create", "runs/log-batch", "runs/log-batch"]
        server.requests.clear()
        record.status = "done"
        sync(mirror, record)
    assert messages == []
    files = ["record", "metrics", "config", "model", "stages/prune/model"]
    model_files = ["MLmodel", "conda", "python_env", "requirements", "examples", "examples", "code", "model", "facts"]
    assert Counter(server.requests) == {
        "logged-models": 1,
        "runs/outputs": 1,
        "runs/log-batch": 1,
        "runs/update": 1,
        "runs/log-inputs": 1,
        "artifact": len(files) + len(model_files),
        "logged-models/m-1": 1,  # which marks the model as complete
    }


def test_regression_gets_no_labels(record: Record, mirror: MlflowMirror, sync: Callable[..., bool]) -> None:
    record.config["task"] = {"_target_": "lightexp.tasks.regression.Regression"}
    record.dataset |= {"labels": [], "targets": {"mean": [1.0], "std": [2.0]}}
    sync(mirror, record)
    location = Path(read_model(record)[1].artifact_location.removeprefix("file://"))
    assert "labels" not in (location / "MLmodel").read_text().partition("metadata:")[0]
    assert json.loads((location / "data" / "model.json").read_text())["targets"]["std"] == [2.0]


def test_find_model_takes_no_link_and_no_unfinished_run(record: Record, run_folder: Path, tmp_path: Path) -> None:
    model = run_folder / "model.tflite"
    assert find_model(record, run_folder) == model
    for change in ({"status": "failed"}, {"dataset": {"name": "digits"}}):
        assert find_model(Record(**{**vars(record), **change}), run_folder) is None
    model.rename(tmp_path / "elsewhere")
    assert find_model(record, run_folder) is None
    model.symlink_to(tmp_path / "elsewhere")
    assert find_model(record, run_folder) is None
