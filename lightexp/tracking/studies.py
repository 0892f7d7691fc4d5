"""A study in MLflow: one run with a child for each trial that has ended, whoever ran it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightexp.tracking import entries, stores

NUMBER, STUDY, PARENT = "lightexp.trial", "lightexp.study", "mlflow.parentRunId"


@dataclass(frozen=True)
class Trial:
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
class Study:
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
    trials: list[Trial] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)


def from_plain(values: dict[str, Any]) -> Study:
    """A study from the JSON types that `dataclasses.asdict` makes of it."""
    return Study(**{**values, "trials": [Trial(**trial) for trial in values["trials"]]})


def show(client: Any, experiment: str, study: Study) -> str:
    """Shows a study and its trials; a second time changes nothing. One process at a time may.

    Returns:
        The id of the study's run.
    """
    entities = stores.load().entities
    where = f"tags.`{STUDY}` = '{study.id}'"
    found = client.search_runs([experiment], where, max_results=1)
    if found:
        run_id = str(found[0].info.run_id)
    else:
        tags = {STUDY: study.id, "mlflow.source.name": "lightexp"}
        run_id = str(client.create_run(experiment, tags=tags, run_name=study.name).info.run_id)
    if study.status != (found[0].info.status if found else "RUNNING"):
        client.update_run(run_id, status=study.status)
    params = {entries.key(name): entries.text(value, entries.PARAM_CHARS) for name, value in study.params.items()}
    there = set(found[0].data.params) if found else set()
    for part in entries.batches({k: v for k, v in params.items() if k not in there}, entries.PARAMS):
        client.log_batch(run_id, params=[entities.Param(k, v) for k, v in part.items()])
    metrics = [entities.Metric(entries.key(name), value, step, step) for name, value, step in study.metrics]
    for first in range(0, len(metrics), entries.METRICS):
        client.log_batch(run_id, metrics=metrics[first : first + entries.METRICS])
    children = _children(client, experiment, run_id) if study.trials else {}
    for trial in study.trials:
        _show_trial(client, experiment, run_id, trial, children.get(str(trial.number)))
    for path, place in study.files.items():
        if Path(path).is_file():
            client.log_artifact(run_id, path, place or None)
    return run_id


def close(client: Any, run_id: str) -> None:
    """Shows that a study's command was killed, if the study is shown as running."""
    if client.get_run(run_id).info.status == "RUNNING":
        client.update_run(run_id, status="KILLED")


def _children(client: Any, experiment: str, run_id: str) -> dict[str, Any]:
    """The study's children by their trial's number."""
    found: dict[str, Any] = {}
    token = None
    while True:
        page = client.search_runs([experiment], f"tags.`{PARENT}` = '{run_id}'", max_results=1_000, page_token=token)
        found |= {run.data.tags.get(NUMBER, ""): run for run in page}
        if not (token := page.token):
            return found


def _show_trial(client: Any, experiment: str, parent: str, trial: Trial, there: Any) -> None:
    """Shows a trial, or the rest of one whose process died while it was shown; figures that are new are added."""
    entities = stores.load().entities
    stamp = int(trial.ended * 1000)
    known = set(there.data.metrics) if there else set()
    metrics = {entries.key(name): value for name, value in trial.metrics.items()}
    new = [entities.Metric(name, value, stamp, 0) for name, value in metrics.items() if name not in known]
    tags = {name: entries.text(value, entries.TAG_CHARS) for name, value in trial.tags.items()}
    ended = there is not None and there.info.status != "RUNNING"
    if ended and not new and tags.items() <= there.data.tags.items():
        return
    if there is None:
        first = {PARENT: parent, NUMBER: str(trial.number)}
        name = f"trial {trial.number}"
        there = client.create_run(experiment, start_time=int(trial.started * 1000), tags=first, run_name=name)
    params = {entries.key(name): entries.text(value, entries.PARAM_CHARS) for name, value in trial.params.items()}
    client.log_batch(
        there.info.run_id,
        metrics=new,
        params=[entities.Param(name, value) for name, value in params.items()][: entries.PARAMS],
        tags=[entities.RunTag(name, value) for name, value in tags.items()],
    )
    if not ended:
        client.set_terminated(there.info.run_id, "FINISHED" if trial.done else "FAILED", end_time=stamp)
