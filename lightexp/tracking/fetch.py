"""Read records back from MLflow: each run there has its `record.json` among its artifacts."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightexp.core.errors import BadInput, suggest_nearest
from lightexp.core.record import RECORD_FILE, Record, read_record
from lightexp.tracking import stores
from lightexp.tracking.mlflow import summarize_mlflow_error

_PAGE_SIZE = 200
_RUN_ID = re.compile(r"[0-9A-Za-z]{1,64}")
_LIMITS = {"timeout": 10, "retries": 1}


def download_records(uri: str, experiment: str, complaints: list[str]) -> Iterator[Record]:
    """Yield the records of an experiment's finished runs, oldest first.

    Args:
        uri: The tracking URI.
        experiment: The experiment's name.
        complaints: Gets a line for each run whose record cannot be downloaded or read.

    Raises:
        BadInput: If the store cannot be reached, or has no such experiment.
    """
    if problem := stores.find_uri_problem(uri):
        raise BadInput(f"tracking.uri: {problem}.")
    if (file := stores.get_database_file(uri)) and not file.is_file():
        raise BadInput(f"tracking.uri: {file} is not there. Received: {uri}. Set tracking.uri=URI.")
    with stores.bound_retries(**_LIMITS), tempfile.TemporaryDirectory() as folder:
        client = stores.import_mlflow().MlflowClient(tracking_uri=uri)
        experiment_id = _find_experiment(client, uri, experiment)
        for run_id in _list_finished_runs(client, experiment_id):
            run_folder = Path(folder) / run_id
            run_folder.mkdir()
            try:
                client.download_artifacts(run_id, RECORD_FILE, str(run_folder))
                yield read_record(run_folder)
            except BadInput as error:
                complaints.append(str(error).replace(str(run_folder), f"MLflow run {run_id}"))
            except Exception as error:  # MLflow and its libraries raise anything; the other runs are still read
                complaints.append(
                    f"MLflow run {run_id}: its {RECORD_FILE} cannot be downloaded: {summarize_mlflow_error(error)}"
                )


def _find_experiment(client: Any, uri: str, name: str) -> str:
    """Return an experiment's id."""
    try:
        experiment = client.get_experiment_by_name(name)
        if experiment is not None:
            return str(experiment.experiment_id)
        names = [other.name for other in client.search_experiments(max_results=_PAGE_SIZE)]
    except Exception as error:  # MLflow and its libraries raise anything where a store cannot be reached
        raise BadInput(
            f"MLflow at {uri} cannot be used: {summarize_mlflow_error(error)}. Set tracking.uri=URI."
        ) from None
    raise BadInput(f"tracking.experiment: '{name}' is not at {uri}: {suggest_nearest(name, names)}")


def _list_finished_runs(client: Any, experiment_id: str) -> Iterator[str]:
    """Yield the ids of an experiment's runs that have finished, oldest first."""
    query, order = "attributes.status = 'FINISHED'", ["attributes.start_time ASC"]
    token = None
    while True:
        page = client.search_runs([experiment_id], query, order_by=order, max_results=_PAGE_SIZE, page_token=token)
        for run in page:
            run_id = str(run.info.run_id)
            if not _RUN_ID.fullmatch(run_id):  # it names a folder below
                raise BadInput(f"MLflow's answer is unusable: {run_id!r} is not the id of a run.")
            yield run_id
        token = page.token
        if not token:
            return
