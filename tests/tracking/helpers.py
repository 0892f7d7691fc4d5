"""What the tests of this folder share besides fixtures."""

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
