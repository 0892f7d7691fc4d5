"""`lightexp register`: versions and aliases in a real registry, served by MLflow."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightexp.cli.main import main
from lightexp.core.metrics import Metric
from lightexp.core.record import Record, StageRecord
from lightexp.tracking import stores
from tests.tracking.helpers import ROOT

TINY = ROOT / "tests" / "search" / "plugin" / "tiny.tflite"
PATIENCE_S = 180


@pytest.fixture
def write(tmp_path: Path, make_record: Callable[..., Record]) -> Callable[..., Path]:
    """Write a run that is done, with a model."""

    def write_run(name: str, accuracy: float, size: int, folder: Path | None = None, **changes: Any) -> Path:
        metrics = [Metric("accuracy/val", accuracy), Metric("size/file_bytes", float(size), "bytes")]
        stages = [StageRecord("train", "0" * 64, False, 1.5, metrics)]
        config = {"seed": 3, "tracking": {"_target_": "lightexp.tracking.mirror.NoTracking"}, "plugins": []}
        record = make_record(id=name, status="done", ended=1.8e9, stages=stages, config=config, **changes)
        record.dataset |= {"shape": [8, 8, 1], "scale": 1 / 16, "offset": 0.0, "labels": list("abcd")}
        place = folder or tmp_path / "outputs" / "runs" / name
        place.mkdir(parents=True)
        shutil.copyfile(TINY, place / "model.tflite")
        record.write(place)
        return place

    return write_run


def register(capfd: pytest.CaptureFixture[str], tmp_path: Path, *arguments: str) -> list[str]:
    """Register, and return the lines that are printed."""
    assert main(["register", *arguments, f"paths.outputs={tmp_path / 'outputs'}"]) == 0
    captured = capfd.readouterr()
    assert captured.err == ""
    return captured.out.splitlines()


def score(address: str, body: dict[str, Any]) -> Any:
    """Send a request to MLflow's scoring server, and wait for the server to start."""
    request = urllib.request.Request(f"{address}/invocations", json.dumps(body).encode())
    request.add_header("Content-Type", "application/json")
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError:
            raise
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.2)


def test_registered_model_is_served(
    write: Callable[..., Path], server: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    uri = f"tracking.uri={server}"
    lines = register(capfd, tmp_path, str(write("large", 0.9, 900)), "key words", uri)
    assert lines[0] == "key words version 1 (champion, smallest): run large"
    write("small", 0.8, 100)
    assert register(capfd, tmp_path, "small", "key words", uri)[0] == "key words version 2 (smallest): run small"
    assert register(capfd, tmp_path, "large", "key words", uri)[0] == "key words version 1 (champion): run large"
    client = stores.import_mlflow().MlflowClient(tracking_uri=server)
    model = client.get_registered_model("key words")
    assert model.aliases == {"champion": "1", "smallest": "2"}
    assert "| 1 (champion): small\\_cnn on digits: prune\\_quantize · seed 3 | 90.00% |" in model.description
    assert client.get_model_version("key words", "2").tags["size/file_bytes"] == "100.0"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/key words@champion"]
    command += ["--env-manager", "local", "--port", str(port)]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # MLflow starts `uvicorn` by its name
    environment = {
        **os.environ,
        "PATH": path,
        "MLFLOW_TRACKING_URI": server,
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    }
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=tmp_path, env=environment, start_new_session=True
        )
    try:
        examples = np.random.default_rng(0).integers(0, 17, (3, 8, 8, 1)).tolist()
        outputs = score(f"http://127.0.0.1:{port}", {"inputs": examples})["predictions"]
        labels = score(f"http://127.0.0.1:{port}", {"inputs": examples, "params": {"labels": True}})["predictions"]
    finally:
        os.killpg(process.pid, 15)
        process.wait(60)
    from lightexp.backend.litert import ExampleSpec, run_model

    spec = ExampleSpec("data", (8, 8, 1), 4, "4 classes", 1 / 16, 0.0)
    expected = run_model(TINY, np.array(examples), spec, 1, 50)
    assert np.allclose(outputs, expected, rtol=1e-5)
    assert labels == ["abcd"[index] for index in expected.argmax(axis=1)]


def test_front_gives_its_picks(
    write: Callable[..., Path],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    copy_database: Callable[[Path], None],
) -> None:
    copy_database(tmp_path / "outputs")
    study = tmp_path / "outputs" / "searches" / "tried"
    for number, (accuracy, size) in enumerate([(0.7, 100), (0.8, 200), (0.9, 300)]):
        write(f"id-{number}", accuracy, size, study / "front" / f"trial_{number:04d}")
    points = [{"trial": number, "picks": picks} for number, picks in enumerate([["smallest"], [], ["best", "knee"]])]
    (study / "front.json").write_text(json.dumps({"front": points}))
    for name in ("tried", str(study)):  # the second call changes nothing
        lines = register(capfd, tmp_path, "--front", name, "keywords")
        assert lines[:-1] == ["keywords version 1 (smallest): run id-0", "keywords version 2 (champion): run id-2"]
    client = stores.import_mlflow().MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/outputs/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("lightexp").experiment_id])
    assert sorted(run.info.run_name for run in runs) == ["tried trial 0 · seed 3", "tried trial 2 · seed 3"]
    write("other data", 0.99, 50, dataset={"splits": {"val": {"digest": "other"}}})
    lines = register(capfd, tmp_path, "other data", "keywords")
    assert lines[0] == "keywords version 3 (champion, smallest): run other data"
    assert lines[1] == "2 versions were measured on other data, and are not compared."


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "register takes RUN NAME. Received: nothing."),
        (["one"], "register takes RUN NAME. Received: one."),
        (["--front", "study"], "register takes NAME after --front STUDY. Received: nothing."),
        (["run", "a/b"], "NAME is of letters, digits, '_', '-', '.' and spaces. Received: 'a/b'."),
        (["nowhere", "name"], "holds a record.json. The last are: failed. Set paths.outputs=FOLDER."),
        (["--front", "nowhere", "name"], "holds a front.json. The last are: old. Set paths.outputs=FOLDER."),
        (["--front", "old", "name"], "front.json names no picks of a front. Run the study's search again."),
        (["--front", "going on", "name"], "is not tested yet. Let its search end, or add search.test=now to it."),
        (["failed", "name"], "is failed and ships no model. Give the folder of a run that is done."),
        (["run", "name", "tracking=none"], "register uses MLflow. Received: tracking=none."),
        (["run", "name", "--fornt=x"], "--fornt is not a flag of lightexp register: did you mean '--front'?"),
    ],
)
def test_register_refuses_bad_input_in_one_line(
    arguments: list[str], message: str, write: Callable[..., Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = write("failed", 0.9, 900)
    (tmp_path / "outputs" / "searches" / "going on" / "trials").mkdir(parents=True)
    (tmp_path / "outputs" / "searches" / "old").mkdir()
    (tmp_path / "outputs" / "searches" / "old" / "front.json").write_text('{"front": [{"trial": 1}]}')
    (folder / "record.json").write_text((folder / "record.json").read_text().replace('"done"', '"failed"'))
    assert main(["register", *arguments, f"paths.outputs={tmp_path / 'outputs'}"]) == 2
    captured = capfd.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert len(captured.err.splitlines()) == 1


def test_register_names_a_server_that_is_down(
    write: Callable[..., Path], free_port: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write("a", 0.9, 900)
    uri = f"tracking.uri=http://127.0.0.1:{free_port}"
    assert main(["register", "a", "name", uri, f"paths.outputs={tmp_path / 'outputs'}"]) == 1
    assert "cannot be used: Connection refused" in capfd.readouterr().err
