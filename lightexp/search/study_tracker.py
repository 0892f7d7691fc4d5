"""A study as MLflow is told of it, beside the work: nothing waits for it before the end."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from lightexp.search.export_front import FrontPoint
from lightexp.search.outcome import OUTCOME, is_feasible, read_stopped_epoch
from lightexp.search.ranges import format_value
from lightexp.search.study import SEED_TRIAL, SearchStudy
from lightexp.search.study_status import StudyStatus
from lightexp.tracking import study_payload
from lightexp.tracking.mirror import Mirror
from lightexp.tracking.process import MirrorProcess
from lightexp.tracking.remote_mirror import RemoteMirror

_ALONE = -2
"""The claim of whoever shows the study: one command at a time."""
_BATCH_SIZE = 20  # trials a call


class StudyTracker:
    """Shows a study in its mirror while it works, and all of it at the end."""

    def __init__(self, study: SearchStudy, say: Any) -> None:
        """Starts the process that mirrors, unless nothing is to be mirrored."""
        self._study = study
        settings = study.spec.settings
        self._mirror: Mirror | None = None
        if settings.tracking.is_enabled:
            plain = settings.plain
            self._mirror = RemoteMirror(MirrorProcess(), plain["tracking"], plain["plugins"], settings.outputs, say)
        self._thread = ThreadPoolExecutor(1)
        self._call: Future[dict[str, str]] | None = None
        self._sent: set[int] = set()
        self._steps = 0  # of the hypervolume, as far as they were sent
        self.where: dict[str, str] = {}

    def update(self, now: StudyStatus) -> None:
        """Shows trials that have ended since, unless the last call is still under way."""
        if self._mirror is None or (self._call and not self._call.done()):
            return
        new = [t for t in now.ended if t.number not in self._sent][:_BATCH_SIZE]
        if self._call is None or new:
            self._sent |= {t.number for t in new}
            self._call = self._thread.submit(self._show, "RUNNING", now, [self._trial(t, now) for t in new], {})

    def end(self, status: str, now: StudyStatus, points: Sequence[FrontPoint] = ()) -> None:
        """Shows how it ended, the front's tests and files, and every trial that is not shown yet."""
        if self._mirror is None:
            return
        tested = {p.number: p for p in points}
        trials = []
        for trial in now.ended:
            one = self._trial(trial, now)
            one.tags["lightexp.front"] = str(trial.number in tested).lower()
            if trial.number in tested:
                one.metrics.update(tested[trial.number].metrics)
            trials.append(one)
        files = {str(path): "" for path in self._study.folder.glob("*.*") if path.suffix in (".md", ".svg", ".json")}
        for point in points:
            files |= {str(point.config): "front", str(point.model): f"front/{point.config.stem}"}
        self.where = self._thread.submit(self._show, status, now, trials, files).result()
        self._thread.shutdown()

    def _show(
        self, status: str, now: StudyStatus, trials: list[study_payload.TrialPayload], files: dict[str, str]
    ) -> dict[str, str]:
        assert self._mirror is not None
        spec, space = self._study.spec, self._study.space
        params = {f"space/{p.name}": str(p) for p in space.parameters}
        params |= {f"objective/{o.name}": o.direction for o in spec.objectives}
        params |= {f"constraint/{n}": c.text for n, c in enumerate(spec.constraints)}
        params["sampler"] = spec.search.sampler
        ended = len(now.ended)
        sent = 0 if status != "RUNNING" else self._steps
        metrics = [("hypervolume", value, step) for step, value in enumerate(now.history, start=1) if step > sent]
        self._steps = len(now.history)
        counts = {"done": now.done, "failed": now.failed} | ({"short": now.cut_short} if now.cut_short else {})
        metrics += [(f"trials/{name}", float(len(trials)), ended) for name, trials in counts.items()]
        if now.best:
            metrics += [(f"best/{o.name}", v, ended) for o, v in zip(spec.objectives, now.best.values, strict=True)]
        with self._study.locks.hold(_ALONE):
            return self._mirror.study(
                study_payload.StudyPayload(self._study.id, spec.name, status, params, metrics, trials, files)
            )

    def _trial(self, trial: FrozenTrial, now: StudyStatus) -> study_payload.TrialPayload:
        outcome = trial.user_attrs[OUTCOME]
        done = trial.state is not TrialState.FAIL
        metrics = dict(outcome["metrics"])
        if trial.state is TrialState.COMPLETE:
            metrics |= {f"constraint/{n}": value for n, value in enumerate(trial.constraints.values())}
            metrics["feasible"] = float(is_feasible(trial))
        tags = {"lightexp.host": outcome["host"], "lightexp.corner": trial.user_attrs.get(SEED_TRIAL)}
        tags["lightexp.stopped"] = str(read_stopped_epoch(trial) or "")
        tags["lightexp.front"] = str(trial.number in {one.number for one in now.front}).lower()  # as yet
        tags |= {"lightexp.reason": outcome["reason"], "lightexp.folder": outcome["folder"]}
        params = {name: format_value(value) for name, value in trial.params.items()}
        assert trial.datetime_start and trial.datetime_complete
        started, ended = trial.datetime_start.timestamp(), trial.datetime_complete.timestamp()
        return study_payload.TrialPayload(
            trial.number, done, params, metrics, {k: v for k, v in tags.items() if v}, started, ended
        )
