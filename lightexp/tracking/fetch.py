"""Records back from MLflow: each run there holds its `record.json`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from lightexp.core.errors import BadInput, suggest_nearest
from lightexp.core.record import RECORD_FILE, Record, read_record
from lightexp.tracking import stores
from lightexp.tracking.mlflow import summarize_mlflow_error

_PAGE = 200


def download_records(uri: str, experiment: str, complaints: list[str]) -> Iterator[Record]:
    """Reads the records of an experiment's runs that have been finished, oldest first.

    Args:
        uri: The tracking URI.
        experiment: The experiment's name.
        complaints: Gets a line for each run whose record cannot be had.

    Raises:
        BadInput: If the store cannot be reached, or has no such experiment.
    """
    if words := stores.find_uri_problem(uri):
        raise BadInput(f"tracking.uri: {words}.")
    if (file := stores.get_database_file(uri)) and not file.is_file():
        raise BadInput(f"tracking.uri: {file} is not there. Received: {uri}.")
    with stores.bound_retries(timeout=10, retries=1), tempfile.TemporaryDirectory() as folder:
        client = stores.import_mlflow().MlflowClient(tracking_uri=uri)
        try:
            found = client.get_experiment_by_name(experiment)
            names = [] if found else [one.name for one in client.search_experiments(max_results=_PAGE)]
        except Exception as error:
            raise BadInput(
                f"MLflow at {uri} cannot be used: {summarize_mlflow_error(error)}. Set tracking.uri=URI."
            ) from None
        if found is None:
            raise BadInput(f"tracking.experiment: '{experiment}' is not at {uri}: {suggest_nearest(experiment, names)}")
        token = None
        while True:
            done = "attributes.status = 'FINISHED'"
            order = ["attributes.start_time ASC"]
            page = client.search_runs([found.experiment_id], done, order_by=order, max_results=_PAGE, page_token=token)
            for run in page:
                place = Path(folder) / run.info.run_id
                place.mkdir()
                try:
                    client.download_artifacts(run.info.run_id, RECORD_FILE, str(place))
                    yield read_record(place)
                except BadInput as error:
                    complaints.append(str(error).replace(str(place), f"MLflow run {run.info.run_id}"))
                except Exception as error:
                    complaints.append(
                        f"MLflow run {run.info.run_id} has no {RECORD_FILE} to be had: {summarize_mlflow_error(error)}"
                    )
            token = page.token
            if not token:
                return
