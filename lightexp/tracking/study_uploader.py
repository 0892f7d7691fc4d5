"""Upload of a study to MLflow: one run, with a child run for each trial that has ended, whichever host ran it."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightexp.core import compat
from lightexp.tracking import mlflow_payload, stores
from lightexp.tracking.study_payload import StudyPayload, TrialPayload

TRIAL_TAG, STUDY_TAG, PARENT_TAG = "lightexp.trial", "lightexp.study", "mlflow.parentRunId"
_UPLOADER_TAG = "lightexp.shown_by"
_BATCH_TRIALS = 20  # written in one transaction, for which other processes that write must wait


@dataclass
class _TrialRun:
    """What MLflow has of a trial."""

    run_id: str
    ended: bool
    metrics: set[str]
    tags: dict[str, str]


class StudyUploader:
    """Upload a study again and again while it grows.

    What MLflow has is read once, and again only when another process has uploaded to the study meanwhile.
    """

    def __init__(self, experiment_id: str) -> None:
        """Reach nothing yet.

        Args:
            experiment_id: The MLflow experiment's id.
        """
        self._experiment_id = experiment_id
        self._token = uuid.uuid4().hex
        self._run_id: str | None = None
        self._trial_runs: dict[str, _TrialRun] = {}

    def upload(self, client: Any, study: StudyPayload) -> str:
        """Upload what MLflow lacks of a study and its trials. A second call changes nothing.

        Only one process may do so at a time.

        Args:
            client: MLflow's client.
            study: The study.

        Returns:
            The id of the study's run.
        """
        run = self._find_or_create_run(client, study)
        run_id = self._run_id = str(run.info.run_id)
        if run.data.tags.get(_UPLOADER_TAG) != self._token:
            self._trial_runs = _list_trial_runs(client, self._experiment_id, run_id)
            client.set_tag(run_id, _UPLOADER_TAG, self._token)
        if study.status != run.info.status:
            client.update_run(run_id, status=study.status)
        _log_params(client, run, study)
        _log_metrics(client, run_id, study)
        for first in range(0, len(study.trials), _BATCH_TRIALS):
            with compat.mlflow_transaction(client):
                for trial in study.trials[first : first + _BATCH_TRIALS]:
                    number = str(trial.number)
                    self._trial_runs[number] = self._upload_trial(client, trial, self._trial_runs.get(number))
        for path, folder in study.files.items():
            if Path(path).is_file():
                client.log_artifact(run_id, path, folder or None)
        return run_id

    def _find_or_create_run(self, client: Any, study: StudyPayload) -> Any:
        if self._run_id:
            return client.get_run(self._run_id)
        runs = client.search_runs([self._experiment_id], f"tags.`{STUDY_TAG}` = '{study.id}'", max_results=1)
        if runs:
            return runs[0]
        tags = {STUDY_TAG: study.id, "mlflow.source.name": "lightexp"}
        return client.create_run(self._experiment_id, tags=tags, run_name=study.name)

    def _upload_trial(self, client: Any, trial: TrialPayload, existing: _TrialRun | None) -> _TrialRun:
        """Upload a trial, or the rest of one whose upload was interrupted; metrics that are new are added."""
        tags = {
            name: mlflow_payload.format_value(value, mlflow_payload.TAG_CHARS) for name, value in trial.tags.items()
        }
        run = existing or self._create_trial_run(client, trial, tags)
        metrics = {mlflow_payload.sanitize_key(name): value for name, value in trial.metrics.items()}
        new_metrics = {name: value for name, value in metrics.items() if name not in run.metrics}
        new_tags = dict(tags.items() - run.tags.items())
        if run.ended and not new_metrics and not new_tags:
            return run
        entities = stores.import_mlflow().entities
        end_ms = int(trial.ended * 1000)
        client.log_batch(
            run.run_id,
            metrics=[entities.Metric(name, value, end_ms, 0) for name, value in new_metrics.items()],
            params=[entities.Param(name, value) for name, value in _format_params(trial.params).items()][
                : mlflow_payload.PARAMS
            ],
            tags=[entities.RunTag(name, value) for name, value in new_tags.items()],
        )
        if not run.ended:
            client.set_terminated(run.run_id, "FINISHED" if trial.done else "FAILED", end_time=end_ms)
        return _TrialRun(run.run_id, True, run.metrics | new_metrics.keys(), run.tags | new_tags)

    def _create_trial_run(self, client: Any, trial: TrialPayload, tags: dict[str, str]) -> _TrialRun:
        all_tags = {**tags, PARENT_TAG: str(self._run_id), TRIAL_TAG: str(trial.number)}
        start_ms, name = int(trial.started * 1000), f"trial {trial.number}"
        run = client.create_run(self._experiment_id, start_time=start_ms, tags=all_tags, run_name=name)
        return _TrialRun(run.info.run_id, False, set(), all_tags)


def close_study(client: Any, run_id: str) -> None:
    """Show that a study's command was killed, if the study is shown as running."""
    if client.get_run(run_id).info.status == "RUNNING":
        client.update_run(run_id, status="KILLED")


def _format_params(params: dict[str, str]) -> dict[str, str]:
    limit = mlflow_payload.PARAM_CHARS
    return {
        mlflow_payload.sanitize_key(name): mlflow_payload.format_value(value, limit) for name, value in params.items()
    }


def _log_params(client: Any, run: Any, study: StudyPayload) -> None:
    param = stores.import_mlflow().entities.Param
    missing = {name: value for name, value in _format_params(study.params).items() if name not in run.data.params}
    for batch in mlflow_payload.split_batches(missing, mlflow_payload.PARAMS):
        client.log_batch(run.info.run_id, params=[param(name, value) for name, value in batch.items()])


def _log_metrics(client: Any, run_id: str, study: StudyPayload) -> None:
    metric = stores.import_mlflow().entities.Metric
    metrics = [metric(mlflow_payload.sanitize_key(name), value, step, step) for name, value, step in study.metrics]
    for first in range(0, len(metrics), mlflow_payload.METRICS):
        client.log_batch(run_id, metrics=metrics[first : first + mlflow_payload.METRICS])


def _list_trial_runs(client: Any, experiment_id: str, run_id: str) -> dict[str, _TrialRun]:
    """Return the child runs of a study's run by their trial's number."""
    trial_runs: dict[str, _TrialRun] = {}
    token = None
    while True:
        query = f"tags.`{PARENT_TAG}` = '{run_id}'"
        page = client.search_runs([experiment_id], query, max_results=1_000, page_token=token)
        for run in page:
            ended = run.info.status != "RUNNING"
            trial_run = _TrialRun(run.info.run_id, ended, set(run.data.metrics), dict(run.data.tags))
            trial_runs[run.data.tags.get(TRIAL_TAG, "")] = trial_run
        token = page.token
        if not token:
            return trial_runs
