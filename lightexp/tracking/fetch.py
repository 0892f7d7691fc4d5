"""Records back from MLflow: each run there holds its `record.json`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from lightexp.core.errors import BadInput, nearest
from lightexp.core.record import FILE, Record, read
from lightexp.tracking import stores
from lightexp.tracking.mlflow import reason

_PAGE = 200


def records(uri: str, experiment: str, complaints: list[str]) -> Iterator[Record]:
    """Reads the records of an experiment's runs that have been finished, oldest first.

    Args:
        uri: The tracking URI.
        experiment: The experiment's name.
        complaints: Gets a line for each run whose record cannot be had.

    Raises:
        BadInput: If the store cannot be reached, or has no such experiment.
    """
    if words := stores.complaint(uri):
        raise BadInput(f"tracking.uri: {words}.")
    if (file := stores.database_file(uri)) and not file.is_file():
        raise BadInput(f"tracking.uri: {file} is not there. Received: {uri}.")
    with stores.patience(timeout=10, retries=1), tempfile.TemporaryDirectory() as folder:
        client = stores.load().MlflowClient(tracking_uri=uri)
        try:
            found = client.get_experiment_by_name(experiment)
            names = [] if found else [one.name for one in client.search_experiments(max_results=_PAGE)]
        except Exception as error:
            raise BadInput(f"MLflow at {uri} cannot be used: {reason(error)}. Set tracking.uri=URI.") from None
        if found is None:
            raise BadInput(f"tracking.experiment: '{experiment}' is not at {uri}: {nearest(experiment, names)}")
        token = None
        while True:
            done = "attributes.status = 'FINISHED'"
            order = ["attributes.start_time ASC"]
            page = client.search_runs([found.experiment_id], done, order_by=order, max_results=_PAGE, page_token=token)
            for run in page:
                place = Path(folder) / run.info.run_id
                place.mkdir()
                try:
                    client.download_artifacts(run.info.run_id, FILE, str(place))
                    yield read(place)
                except BadInput as error:
                    complaints.append(str(error).replace(str(place), f"MLflow run {run.info.run_id}"))
                except Exception as error:
                    complaints.append(f"MLflow run {run.info.run_id} has no {FILE} to be had: {reason(error)}")
            token = page.token
            if not token:
                return
