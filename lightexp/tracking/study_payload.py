"""A study in MLflow: one run with a child for each trial that has ended, whoever ran it."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightexp.tracking import mlflow_payload, stores

NUMBER, STUDY, PARENT = "lightexp.trial", "lightexp.study", "mlflow.parentRunId"
_SHOWER = "lightexp.shown_by"
_TOGETHER = 20  # trials: others wait no longer than these take


@dataclass(frozen=True)
class TrialPayload:
    """A trial that has ended.

    Attributes:
        number: Its number in the study.
        done: Whether it has figures; else it failed.
        params: What was searched, by name.
        metrics: Objectives, constraints, feasibility and other figures, by name.
        tags: What else is known: corner, host, reason.
        started: Seconds since the epoch.
        ended: Likewise.
    """

    number: int
    done: bool
    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]
    started: float
    ended: float


@dataclass(frozen=True)
class StudyPayload:
    """A study as it stands.

    Attributes:
        id: What tells it from another of the same name.
        name: For people.
        status: MLflow's: `RUNNING`, `FINISHED`, `FAILED` or `KILLED`.
        params: Space, objectives and constraints, by name.
        metrics: Name, value and number of trials that had ended.
        trials: Those to be shown; those that are shown already are left as they are.
        files: Put into the run's artifacts: what each is to stand under, by path.
    """

    id: str
    name: str
    status: str
    params: dict[str, str] = field(default_factory=dict)
    metrics: list[tuple[str, float, int]] = field(default_factory=list)
    trials: list[TrialPayload] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)


def parse_study(values: dict[str, Any]) -> StudyPayload:
    """A study from the JSON types that `dataclasses.asdict` makes of it."""
    return StudyPayload(**{**values, "trials": [TrialPayload(**trial) for trial in values["trials"]]})


@dataclass
class _Child:
    """What MLflow shows of a trial."""

    run_id: str
    ended: bool
    metrics: set[str]
    tags: dict[str, str]


class StudyUploader:
    """A study as MLflow shows it: what is there is read once, for as long as nobody else shows the study."""

    def __init__(self, experiment: str) -> None:
        """Reaches nothing yet.

        Args:
            experiment: The experiment's id.
        """
        self._experiment, self._own = experiment, uuid.uuid4().hex
        self._run_id: str | None = None
        self._children: dict[str, _Child] = {}

    def show(self, client: Any, study: StudyPayload) -> str:
        """Shows a study and its trials; a second time changes nothing. One process at a time may.

        Returns:
            The id of the study's run.
        """
        entities = stores.import_mlflow().entities
        run = self._run(client, study)
        run_id = self._run_id = str(run.info.run_id)
        if run.data.tags.get(_SHOWER) != self._own:
            self._children = _children(client, self._experiment, run_id)
            client.set_tag(run_id, _SHOWER, self._own)
        if study.status != run.info.status:
            client.update_run(run_id, status=study.status)
        params = {
            mlflow_payload.sanitize_key(name): mlflow_payload.format_value(value, mlflow_payload.PARAM_CHARS)
            for name, value in study.params.items()
        }
        for part in mlflow_payload.split_batches(
            {k: v for k, v in params.items() if k not in run.data.params}, mlflow_payload.PARAMS
        ):
            client.log_batch(run_id, params=[entities.Param(k, v) for k, v in part.items()])
        metrics = [
            entities.Metric(mlflow_payload.sanitize_key(name), value, step, step) for name, value, step in study.metrics
        ]
        for first in range(0, len(metrics), mlflow_payload.METRICS):
            client.log_batch(run_id, metrics=metrics[first : first + mlflow_payload.METRICS])
        for first in range(0, len(study.trials), _TOGETHER):
            with stores.batch_writes(client):
                for trial in study.trials[first : first + _TOGETHER]:
                    there = self._children.get(str(trial.number))
                    self._children[str(trial.number)] = _show_trial(client, self._experiment, run_id, trial, there)
        for path, place in study.files.items():
            if Path(path).is_file():
                client.log_artifact(run_id, path, place or None)
        return run_id

    def _run(self, client: Any, study: StudyPayload) -> Any:
        """The study's run, made if it is not there."""
        if self._run_id:
            return client.get_run(self._run_id)
        found = client.search_runs([self._experiment], f"tags.`{STUDY}` = '{study.id}'", max_results=1)
        tags = {STUDY: study.id, "mlflow.source.name": "lightexp"}
        return found[0] if found else client.create_run(self._experiment, tags=tags, run_name=study.name)


def close_study(client: Any, run_id: str) -> None:
    """Shows that a study's command was killed, if the study is shown as running."""
    if client.get_run(run_id).info.status == "RUNNING":
        client.update_run(run_id, status="KILLED")


def _children(client: Any, experiment: str, run_id: str) -> dict[str, _Child]:
    """The study's children by their trial's number."""
    found: dict[str, _Child] = {}
    token = None
    while True:
        page = client.search_runs([experiment], f"tags.`{PARENT}` = '{run_id}'", max_results=1_000, page_token=token)
        for run in page:
            ended = run.info.status != "RUNNING"
            child = _Child(run.info.run_id, ended, set(run.data.metrics), dict(run.data.tags))
            found[run.data.tags.get(NUMBER, "")] = child
        if not (token := page.token):
            return found


def _show_trial(client: Any, experiment: str, parent: str, trial: TrialPayload, there: _Child | None) -> _Child:
    """Shows a trial, or the rest of one whose process died while it was shown; figures that are new are added."""
    entities = stores.import_mlflow().entities
    stamp = int(trial.ended * 1000)
    metrics = {mlflow_payload.sanitize_key(name): value for name, value in trial.metrics.items()}
    tags = {name: mlflow_payload.format_value(value, mlflow_payload.TAG_CHARS) for name, value in trial.tags.items()}
    if there is None:
        tags |= {PARENT: parent, NUMBER: str(trial.number)}
        begun, name = int(trial.started * 1000), f"trial {trial.number}"
        run = client.create_run(experiment, start_time=begun, tags=tags, run_name=name)
        there = _Child(run.info.run_id, False, set(), tags)
    new = metrics.keys() - there.metrics
    more = dict(tags.items() - there.tags.items())
    if there.ended and not new and not more:
        return there
    params = {
        mlflow_payload.sanitize_key(name): mlflow_payload.format_value(value, mlflow_payload.PARAM_CHARS)
        for name, value in trial.params.items()
    }
    client.log_batch(
        there.run_id,
        metrics=[entities.Metric(name, value, stamp, 0) for name, value in metrics.items() if name in new],
        params=[entities.Param(name, value) for name, value in params.items()][: mlflow_payload.PARAMS],
        tags=[entities.RunTag(name, value) for name, value in more.items()],
    )
    if not there.ended:
        client.set_terminated(there.run_id, "FINISHED" if trial.done else "FAILED", end_time=stamp)
    return _Child(there.run_id, True, there.metrics | new, there.tags | more)
