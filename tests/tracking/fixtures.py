"""Records, run folders and MLflow servers for tests of tracking and of the commands that use it."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lightexp.core.protocols import Metric
from lightexp.core.record import Record, StageRecord
from lightexp.tracking import stores
from lightexp.tracking.mirror import Mirror
from tests.mlflow_server import find_free_port, serve_mlflow


def _make_stage(name: str, accuracy: float, size: float) -> StageRecord:
    metrics = [
        Metric("accuracy/val", accuracy),
        Metric("accuracy/test", accuracy - 0.01),
        Metric("size/file_bytes", size, "bytes"),
        Metric("size/ratio", 112_960 / size),
        Metric("loss/test", float("nan")),
    ]
    history = {"loss": [0.5, float("inf"), 0.25], "sparsity": [0.0, None, 0.8]}
    return StageRecord(name, "0" * 64, False, 1.5, metrics, {"history": history})


@pytest.fixture
def make_record() -> Callable[..., Record]:
    """Make a run of three stages that has not ended."""

    def make(**changes: Any) -> Record:
        splits = {name: {"n": n, "digest": name[-1] * 64} for name, n in [("train", 60), ("val", 20), ("test", 10)]}
        values: dict[str, Any] = {
            "id": "20260101-000000-abcd",
            "name": "small_cnn on digits: prune_quantize",
            "command": "lightexp run pipeline=prune_quantize",
            "config": {"seed": 3, "pipeline": {"order": ["train", "prune"], "stages": {"prune": {"sparsity": 0.5}}}},
            "varied": ["pipeline.stages.prune.sparsity=0.5", "+extra.word=a=b", "~stage@pipeline.stages.quantize"],
            "environment": {"git": {"commit": "c0ffee", "dirty": True}},
            "started": 1_700_000_000.25,
            "control": "train",
            "dataset": {"name": "digits", "splits": splits},
            "stages": [
                _make_stage("train", 0.98, 112_960),
                _make_stage("prune", 0.97, 112_960),
                _make_stage("quantize", 0.96, 28_240),
            ],
        }
        return Record(**{**values, **changes})

    return make


@pytest.fixture
def messages() -> list[str]:
    """Lines for the user."""
    return []


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A run's folder with files as a runner leaves them, without a record."""
    folder = tmp_path / "runs" / f"run-{uuid.uuid4().hex[:6]}"  # tests may share a store, in which ids are unique
    (folder / "stages" / "prune").mkdir(parents=True)
    for name in ("config.yaml", "model.tflite", "stages/prune/model.tflite", "record.1.tmp", "run.lock"):
        (folder / name).write_bytes(name.encode())
    return folder


@pytest.fixture
def sync(run_folder: Path) -> Callable[..., bool]:
    """Write a record into the run's folder, synchronize it as a runner does, and return whether anything changed.

    The record gets the folder's name for its id.
    """

    def sync_record(mirror: Mirror, record: Record, create: bool = True) -> bool:
        record.id = run_folder.name
        record.write(run_folder)
        result = mirror.sync(run_folder, create)
        result.note_in(record)
        return result.changed

    return sync_record


@pytest.fixture(scope="session")
def free_port() -> int:
    """A port of this machine at which nothing listens."""
    return find_free_port()


@pytest.fixture(scope="session")
def copy_database(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], None]:
    """Put a new MLflow database into an outputs folder, which would take MLflow a second of computing."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # which all test processes share
    stores.prepare_database(folder / "mlflow.db", folder / "mlartifacts")

    def copy(outputs: Path) -> None:
        outputs.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / "mlflow.db", outputs / "mlflow.db")

    return copy


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, copy_database: Callable[[Path], None]) -> Iterator[str]:
    """The address of a real MLflow server."""
    folder = tmp_path_factory.mktemp("server")
    copy_database(folder)
    with serve_mlflow(folder) as address:
        yield address
