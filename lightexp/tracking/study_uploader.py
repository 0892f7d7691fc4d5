"""Upload of a study to MLflow: one run, with a child run for each trial that has ended, whichever host ran it."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from lightexp.tracking import mlflow_payload, stores
from lightexp.tracking.client import MlflowRun, TrackingClient
from lightexp.tracking.run_groups import CALL
from lightexp.tracking.study_payload import StudyPayload, TrialPayload

TRIAL_TAG, STUDY_TAG, PARENT_TAG = "lightexp.trial", "lightexp.study", "mlflow.parentRunId"
_CALL_TAG = f"lightexp.{CALL}"
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

    def __init__(self, experiment_id: str, selection: mlflow_payload.MetricSelection = "main") -> None:
        """Reach nothing yet.

        Args:
            experiment_id: The MLflow experiment's id.
            selection: Whether trials get `all` metrics or the study's `main` ones. Defaults to `main`.
        """
        self._experiment_id, self._selection = experiment_id, selection
        self._token = uuid.uuid4().hex
        self._run_id: str | None = None
        self._trial_runs: dict[str, _TrialRun] = {}

    def upload(self, client: TrackingClient, study: StudyPayload) -> str:
        """Upload what MLflow lacks of a study and its trials. A second call changes nothing.

        Only one process may do so at a time.

        Args:
            client: The store.
            study: The study.

        Returns:
            The id of the study's run.
        """
        run = self._find_or_create_run(client, study)
        run_id = self._run_id = run.run_id
        if run.tags.get(_UPLOADER_TAG) != self._token:
            self._trial_runs = _list_trial_runs(client, self._experiment_id, run_id)
            client.set_tag(run_id, _UPLOADER_TAG, self._token)
        if study.status != run.status:
            client.set_status(run_id, study.status)
        _log_params(client, run, study)
        _log_metrics(client, run_id, study)
        select = partial(_select_metrics, names=set(study.main_metrics) if self._selection == "main" else None)
        for first in range(0, len(study.trials), _BATCH_TRIALS):
            with client.transaction():
                for trial in map(select, study.trials[first : first + _BATCH_TRIALS]):
                    number = str(trial.number)
                    self._trial_runs[number] = self._upload_trial(client, trial, self._trial_runs.get(number))
        note_tags = mlflow_payload.build_note_tags(study.table, run.tags) if study.table else {}
        for name, value in note_tags.items():
            if run.tags.get(name) != value:
                client.set_tag(run_id, name, value)
        for path, folder in study.files.items():
            if Path(path).is_file():
                client.log_file(run, Path(path), folder or None)
        if study.call:
            query = f"tags.`{_CALL_TAG}` = '{study.call}' and attributes.status = 'RUNNING'"
            for dead in list(client.find_runs(self._experiment_id, query)):
                close_run(client, dead.run_id)
        return run_id

    def _find_or_create_run(self, client: TrackingClient, study: StudyPayload) -> MlflowRun:
        if self._run_id:
            return client.get_run(self._run_id)
        run = find_study_run(client, self._experiment_id, study.id)
        return run or create_study_run(client, self._experiment_id, study.id, study.name)

    def _upload_trial(self, client: TrackingClient, trial: TrialPayload, existing: _TrialRun | None) -> _TrialRun:
        """Upload a trial, or the rest of one whose upload was interrupted; metrics that are new are added."""
        tags = {
            mlflow_payload.sanitize_key(name): mlflow_payload.format_value(value, mlflow_payload.TAG_CHARS)
            for name, value in trial.tags.items()
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
            client.set_status(run.run_id, "FINISHED" if trial.done else "FAILED", end_ms)
        return _TrialRun(run.run_id, True, run.metrics | new_metrics.keys(), run.tags | new_tags)

    def _create_trial_run(self, client: TrackingClient, trial: TrialPayload, tags: dict[str, str]) -> _TrialRun:
        all_tags = {**tags, PARENT_TAG: str(self._run_id), TRIAL_TAG: str(trial.number)}
        start_ms, name = int(trial.started * 1000), f"trial {trial.number}"
        run = client.create_run(self._experiment_id, name, all_tags, start_ms)
        return _TrialRun(run.run_id, False, set(), all_tags)


def find_study_run(client: TrackingClient, experiment_id: str, study_id: str) -> MlflowRun | None:
    """Return the run of a study, an ablation or a sweep; None if MLflow has none."""
    return next(client.find_runs(experiment_id, f"tags.`{STUDY_TAG}` = '{study_id}'"), None)


def create_study_run(client: TrackingClient, experiment_id: str, study_id: str, name: str) -> MlflowRun:
    """Create the run of a study, an ablation or a sweep, which is then shown as running."""
    tags = {STUDY_TAG: study_id, "mlflow.source.name": "lightexp"}
    return client.create_run(experiment_id, mlflow_payload.format_value(name, mlflow_payload.KEY_CHARS), tags)


def close_run(client: TrackingClient, run_id: str) -> None:
    """Show that a run or study was killed, if it is shown as running."""
    if client.get_run(run_id).status == "RUNNING":
        client.set_status(run_id, "KILLED")


def _select_metrics(trial: TrialPayload, names: set[str] | None) -> TrialPayload:
    """Return a trial with the named metrics alone; all of them for None."""
    if names is None:
        return trial
    return replace(trial, metrics={name: value for name, value in trial.metrics.items() if name in names})


def _format_params(params: dict[str, str]) -> dict[str, str]:
    limit = mlflow_payload.PARAM_CHARS
    return {
        mlflow_payload.sanitize_key(name): mlflow_payload.format_value(value, limit) for name, value in params.items()
    }


def _log_params(client: TrackingClient, run: MlflowRun, study: StudyPayload) -> None:
    param = stores.import_mlflow().entities.Param
    missing = {name: value for name, value in _format_params(study.params).items() if name not in run.params}
    for batch in mlflow_payload.split_batches(missing, mlflow_payload.PARAMS):
        client.log_batch(run.run_id, params=[param(name, value) for name, value in batch.items()])


def _log_metrics(client: TrackingClient, run_id: str, study: StudyPayload) -> None:
    metric = stores.import_mlflow().entities.Metric
    metrics = [metric(mlflow_payload.sanitize_key(name), value, step, step) for name, value, step in study.metrics]
    for first in range(0, len(metrics), mlflow_payload.METRICS):
        client.log_batch(run_id, metrics=metrics[first : first + mlflow_payload.METRICS])


def _list_trial_runs(client: TrackingClient, experiment_id: str, run_id: str) -> dict[str, _TrialRun]:
    """Return the child runs of a study's run by their trial's number."""
    return {
        run.tags.get(TRIAL_TAG, ""): _TrialRun(run.run_id, run.status != "RUNNING", set(run.metrics), dict(run.tags))
        for run in client.find_runs(experiment_id, f"tags.`{PARENT_TAG}` = '{run_id}'")
    }
