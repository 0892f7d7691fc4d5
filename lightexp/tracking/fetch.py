"""Read records back from MLflow, where each run and each trial of a study's front has its `record.json`."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lightexp.core.errors import BadInput, suggest_nearest
from lightexp.core.record import RECORD_FILE, Record, read_record
from lightexp.tracking import stores
from lightexp.tracking.client import MlflowExperiment, MlflowRun, StoreTimeout, TrackingClient
from lightexp.tracking.mlflow import Mlflow, summarize_mlflow_error
from lightexp.tracking.study_payload import FRONT_FOLDER
from lightexp.tracking.study_uploader import STUDY_TAG, TRIAL_TAG

_TRIAL = re.compile(rf"{FRONT_FOLDER}/trial_(\d{{1,9}})", re.ASCII)
_FINISHED = "attributes.status = 'FINISHED'"
_LIMITS = {"timeout": 10, "retries": 1}


def download_records(place: Mlflow, complaints: list[str]) -> Iterator[Record]:
    """Yield the records of an experiment's finished runs and of its finished studies' fronts, oldest first.

    Args:
        place: The store, by its tracking URI with an absolute path, and the experiment.
        complaints: Gets a line for each run whose record cannot be downloaded or read.

    Raises:
        BadInput: If the store cannot be reached, ceases to answer, or has no such experiment.
    """
    uri = str(place.uri)
    if (file := stores.get_database_file(uri)) and not file.is_file():
        raise BadInput(f"tracking.uri: {file} is not there. Received: {uri}. Set tracking.uri=URI.")
    with stores.bound_retries(**_LIMITS), tempfile.TemporaryDirectory() as folder:
        try:
            client = TrackingClient(uri, place.timeout_s)
            experiment = _find_experiment(client, place)
            for run in _find_runs(client, experiment.experiment_id):
                if TRIAL_TAG in run.tags:
                    continue  # which has no record; those of the front are its study's
                run_folder = Path(folder) / run.run_id
                run_folder.mkdir()
                if STUDY_TAG in run.tags:
                    yield from _download_front(client, run, run_folder, complaints)
                elif record := _download_record(client, run, run_folder, complaints):
                    yield record
        except BadInput:
            raise
        except Exception as error:  # MLflow and its libraries raise anything where a store cannot be used
            raise BadInput(
                f"MLflow at {uri} cannot be used: {summarize_mlflow_error(error)}. Set tracking.uri=URI."
            ) from None


def _find_experiment(client: TrackingClient, place: Mlflow) -> MlflowExperiment:
    experiment = client.find_experiment(place.experiment)
    if experiment is None:
        names = client.list_experiments()
        nearest = suggest_nearest(place.experiment, names)
        raise BadInput(f"tracking.experiment: '{place.experiment}' is not at {place.uri}: {nearest}")
    return experiment


def _find_runs(client: TrackingClient, experiment_id: str) -> Iterator[MlflowRun]:
    """Yield an experiment's finished runs, without the many trials of studies where the server can leave them out."""
    without_trials = client.find_runs(experiment_id, f"{_FINISHED} and tags.`{TRIAL_TAG}` IS NULL")
    try:
        first = next(without_trials, None)
    except stores.import_mlflow().MlflowException as error:
        if error.error_code != "INVALID_PARAMETER_VALUE":
            raise
        yield from client.find_runs(experiment_id, _FINISHED)  # servers before MLflow 3.11 know no IS NULL
        return
    if first is not None:
        yield first
    yield from without_trials


def _download_front(client: TrackingClient, run: MlflowRun, folder: Path, complaints: list[str]) -> Iterator[Record]:
    """Yield the records of a study's front; none of an ablation, a sweep, or a study of an earlier version."""
    for place in sorted(client.list_files(run, FRONT_FOLDER)):
        match = _TRIAL.fullmatch(place)
        if match is None or f"{place}/{RECORD_FILE}" not in client.list_files(run, place):
            continue
        if record := _download_record(client, run, folder, complaints, place):
            study = run.tags.get("mlflow.runName", run.run_id)
            record.tags = {**record.tags, "row": f"{study}, trial {int(match[1])}"}
            yield record


def _download_record(
    client: TrackingClient, run: MlflowRun, folder: Path, complaints: list[str], place: str = ""
) -> Record | None:
    """Return a run's record; None if it cannot be downloaded or read, with a complaint."""
    try:
        client.download_record(run, folder, place)
        return read_record(folder)
    except StoreTimeout:
        raise
    except BadInput as error:
        complaints.append(str(error).replace(str(folder), f"MLflow run {run.run_id}"))
    except Exception as error:  # as above; the other runs are still read
        reason = summarize_mlflow_error(error)
        complaints.append(f"MLflow run {run.run_id}: its {RECORD_FILE} cannot be downloaded: {reason}")
    return None
