"""Mirror a study in MLflow while it works: nothing waits for MLflow before the study's end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from optuna.trial import FrozenTrial, TrialState

from lightexp.core.columns import select_columns
from lightexp.core.json_text import encode_json
from lightexp.core.record import RECORD_FILE
from lightexp.core.regular_files import replace_file
from lightexp.runner.run import describe_mirror
from lightexp.search.export_front import TABLE, TestedPoint
from lightexp.search.outcome import is_feasible, read_outcome
from lightexp.search.ranges import format_value
from lightexp.search.study import SearchStudy
from lightexp.search.study_setup import SEED_TRIAL
from lightexp.search.study_status import StudyStatus
from lightexp.tracking.mlflow_payload import MAIN_METRICS, METRICS_FILE, build_vary_tags
from lightexp.tracking.process import MirrorProcess
from lightexp.tracking.remote_mirror import RemoteMirror
from lightexp.tracking.study_payload import FRONT_FOLDER, StudyPayload, TrialPayload

_UPLOAD_LOCK = -2
"""Number of the lock under which a study is mirrored, by one command at a time; trials have numbers from 0."""
_BATCH_SIZE = 200  # trials a call, so that MLflow keeps up with a long study, whose updates are rare
_FILE_SUFFIXES = (".md", ".svg", ".json")


class StudyTracker:
    """Show a study where its settings ask for it: new trials while it works, everything at the end.

    Attributes:
        place: Where the study is shown, as `record.mlflow` has it; empty before the end, or if nothing is mirrored.
    """

    def __init__(self, study: SearchStudy, say: Callable[[str], None]) -> None:
        """Start the process that mirrors, if the settings ask for one; mirror nothing yet.

        Args:
            study: The study.
            say: Takes each line for the user.
        """
        settings = study.spec.settings
        self.place: dict[str, str] = {}
        self._study = study
        self._is_mirrored = settings.tracking.is_enabled
        self._settings = describe_mirror(settings)
        self._mirror = RemoteMirror(say, MirrorProcess() if self._is_mirrored else None)
        self._thread = ThreadPoolExecutor(1)
        self._call: Future[dict[str, str]] | None = None
        self._sent_trials: set[int] = set()
        self._sent_steps = 0  # of the hypervolume's curve

    def update(self, status: StudyStatus) -> None:
        """Show trials that have ended since the last call, unless that call is still under way.

        Args:
            status: The study's present status.
        """
        if not self._is_mirrored or (self._call and not self._call.done()):
            return
        new = [trial for trial in status.ended if trial.number not in self._sent_trials][:_BATCH_SIZE]
        if self._call is None or new:
            self._sent_trials |= {trial.number for trial in new}
            front = {trial.number for trial in status.front}
            trials = [_describe_trial(trial, trial.number in front) for trial in new]
            self._call = self._thread.submit(self._upload, "RUNNING", status, trials, {})

    def end(self, mlflow_status: str, status: StudyStatus, points: Sequence[TestedPoint] = ()) -> None:
        """Show how the study ended, the front's tests and files, and every trial that is not shown yet; wait for it.

        Args:
            mlflow_status: `FINISHED`, `FAILED` or `KILLED`.
            status: The study's last status.
            points: The front, tested. Defaults to none.
        """
        if not self._is_mirrored:
            return
        points_by_trial = {point.number: point for point in points}
        front = {trial.number for trial in status.front}
        trials = []
        for trial in status.ended:
            payload = _describe_trial(trial, trial.number in front)
            point = points_by_trial.get(trial.number)
            if points:
                payload.tags["lightexp.front"] = str(point is not None).lower()
            if point is not None:
                payload.metrics.update(point.metrics)
            trials.append(payload)
        metrics = {payload.number: payload.metrics for payload in trials}
        replace_file(self._study.folder / METRICS_FILE, f"{encode_json(metrics, indent=1)}\n".encode())
        files = {str(path): "" for path in self._study.folder.glob("*.*") if path.suffix in _FILE_SUFFIXES}
        for point in points:
            folder = f"{FRONT_FOLDER}/{point.config.stem}"
            record = point.model.with_name(RECORD_FILE)
            files |= {str(point.config): FRONT_FOLDER, str(point.model): folder, str(record): folder}
        self.place = self._thread.submit(self._upload, mlflow_status, status, trials, files, bool(points)).result()
        self._thread.shutdown()

    def _upload(
        self,
        mlflow_status: str,
        status: StudyStatus,
        trials: list[TrialPayload],
        files: dict[str, str],
        is_tested: bool = False,
    ) -> dict[str, str]:
        payload = StudyPayload(
            id=self._study.id,
            name=self._study.spec.name,
            status=mlflow_status,
            params=self._list_params(),
            metrics=self._list_metrics(status, all_steps=mlflow_status != "RUNNING"),
            trials=trials,
            files=files,
            main_metrics=self._list_main_metrics(trials),
            table=(self._study.folder / TABLE).read_text(encoding="utf-8") if is_tested else "",
        )
        with self._study.locks.hold(_UPLOAD_LOCK):
            return self._mirror.sync_study(payload, self._settings)

    def _list_params(self) -> dict[str, str]:
        spec = self._study.spec
        params = {f"space/{parameter.name}": str(parameter) for parameter in self._study.space.parameters}
        params |= {f"objective/{objective.name}": objective.direction for objective in spec.objectives}
        params |= {f"constraint/{number}": constraint.text for number, constraint in enumerate(spec.constraints)}
        params["sampler"] = spec.search.sampler
        return params

    def _list_main_metrics(self, trials: Sequence[TrialPayload]) -> list[str]:
        """Return the names of the metrics that people compare trials by."""
        spec = self._study.spec
        columns = select_columns((trial.metrics for trial in trials), spec.settings.task.primary)
        constraints = [f"constraint/{number}" for number in range(len(spec.constraints))]
        names = [objective.name for objective in spec.objectives] + ["feasible", *constraints]
        return [*names, *(column.name for column in columns)][:MAIN_METRICS]

    def _list_metrics(self, status: StudyStatus, all_steps: bool) -> list[tuple[str, float, int]]:
        """Return the hypervolume's curve, the numbers of trials, and the best value of each objective."""
        first = 0 if all_steps else self._sent_steps
        metrics = [("hypervolume", value, step) for step, value in enumerate(status.history, start=1) if step > first]
        self._sent_steps = len(status.history)
        ended = len(status.ended)
        counts = {"done": status.done, "failed": status.failed}
        if status.cut_short:
            counts["short"] = status.cut_short
        metrics += [(f"trials/{name}", float(len(trials)), ended) for name, trials in counts.items()]
        if status.best:
            for objective, value in zip(self._study.spec.objectives, status.best.values, strict=True):
                metrics.append((f"best/{objective.name}", value, ended))
        return metrics


def _describe_trial(trial: FrozenTrial, is_on_front: bool) -> TrialPayload:
    """Return what is shown of a trial that has ended; whether it is on the front is known only so far."""
    outcome = read_outcome(trial)
    metrics = dict(outcome.metrics)
    if trial.state is TrialState.COMPLETE:
        metrics |= {f"constraint/{number}": value for number, value in enumerate(trial.constraints.values())}
        metrics["feasible"] = float(is_feasible(trial))
    tags = {
        "lightexp.host": outcome.host,
        "lightexp.corner": trial.user_attrs.get(SEED_TRIAL),
        "lightexp.stopped": str(outcome.stopped or ""),
        "lightexp.front": str(is_on_front).lower(),
        "lightexp.reason": outcome.reason,
        "lightexp.folder": outcome.folder,
    }
    assert trial.datetime_start and trial.datetime_complete
    return TrialPayload(
        number=trial.number,
        done=trial.state is not TrialState.FAIL,
        params={name: format_value(value) for name, value in trial.params.items()},
        metrics=metrics,
        tags={name: value for name, value in tags.items() if value} | build_vary_tags(outcome.varied),
        started=trial.datetime_start.timestamp(),
        ended=trial.datetime_complete.timestamp(),
    )
