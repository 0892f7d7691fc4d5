"""What tests of tracking, and of the commands that use it, share besides fixtures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightexp.core.record import Record
from lightexp.tracking import stores

ROOT = Path(__file__).parents[2]


def connect(record: Record) -> Any:
    """Return an MLflow client of the store that a record names."""
    return stores.import_mlflow().MlflowClient(tracking_uri=record.mlflow["uri"])


def list_history(client: Any, run_id: str, name: str) -> list[tuple[int, float]]:
    """Return step and value of each point of a curve."""
    return [(metric.step, metric.value) for metric in client.get_metric_history(run_id, name)]


def find_runs(uri: str, experiment: str = "lightexp") -> dict[str, list[Any]]:
    """Return MLflow's runs by lightexp's run ids."""
    client = stores.import_mlflow().MlflowClient(tracking_uri=uri)
    runs: dict[str, list[Any]] = {}
    for run in client.search_runs([client.get_experiment_by_name(experiment).experiment_id]):
        runs.setdefault(run.data.tags["lightexp.run_id"], []).append(run)
    return runs


def count_runs(uri: str, experiment: str = "lightexp") -> dict[str, int]:
    return {name: len(runs) for name, runs in find_runs(uri, experiment).items()}


def list_files(uri: str, run: Any) -> set[str]:
    client = stores.import_mlflow().MlflowClient(tracking_uri=uri)
    return {file.path for file in client.list_artifacts(run.info.run_id)}
