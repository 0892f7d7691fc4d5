"""A study whose workers are the jobs of a Hydra launcher.

A job is no trial but a worker: it takes trials until none is left, as another host would. Launchers wait for the last
job of a batch before they start the next one; workers wait for nobody.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from optuna.trial import TrialState

from lightexp.core import interrupt
from lightexp.core.errors import RunFailed
from lightexp.runner.launcher import MAX_LAUNCH_FAILURES, Launcher, join_as_worker, launch_origin
from lightexp.search.pool import FINISHING, LATE, Pool, View, order
from lightexp.search.study import STARTS, SearchStudy
from lightexp.search.study_spec import StudySpec
from lightexp.search.study_status import StudyStatus, compute_status
from lightexp.search.study_tracker import StudyTracker

_TICK = 0.5  # seconds


class StudyLauncherPool:
    """Runs a study's trials in jobs that a launcher starts."""

    def __init__(
        self,
        study: SearchStudy,
        layers: Mapping[str, list[str]],
        command: list[str],
        view: View,
        mirror: StudyTracker,
        launcher: Launcher,
    ) -> None:
        """Starts nothing yet; see `lightexp.search.pool.Pool`."""
        self._study, self._view, self._mirror, self._launcher = study, view, mirror, launcher
        # Held in the study's storage as long as this process wants the jobs to take trials; the one below it as long
        # as it wants them to finish what they have taken. So they end with it.
        self._call = -random.SystemRandom().randrange(10, 2**31 - 2, 2)
        self._order = {**order(study, layers, command), "call": self._call, "origin": launch_origin()}
        self._before = len(study.trials)
        self._start = time.monotonic()
        self._stillborn, self._all_asked, self._waiting = 0, False, False
        self._claimed, self._over, self._late = threading.Event(), threading.Event(), False
        self._interrupted = threading.Event()

    def run(self) -> bool:
        """Runs trials until nothing is left to do.

        Returns:
            Whether it was interrupted.

        Raises:
            RunFailed: If the launcher's jobs cannot work.
        """
        with ThreadPoolExecutor(1) as aside:
            watch, dropped = aside.submit(self._watch), False
            try:
                with interrupt.defer_first_signal(self._interrupted.set):
                    while not (self._claimed.wait(_TICK) or watch.done()):
                        pass
                    while self._again() and not watch.done():
                        pass
            except KeyboardInterrupt:
                dropped = True
            finally:
                self._over.set()
            watch.result()
        if dropped:
            self._study.requeue_interrupted()
        return dropped or self._interrupted.is_set()

    def _again(self) -> bool:
        """Launches jobs where there is work, else waits a moment for others; False where all is over."""
        study, search = self._study, self._study.spec.search
        trials = study.trials
        if self._late or self._interrupted.is_set() or study.too_many_failures(trials):
            return False
        running = [t.number for t in trials if t.state is TrialState.RUNNING]
        asked = sum(t.state is not TrialState.WAITING for t in trials)
        if (self._all_asked or asked >= search.trials) and not any(map(study.locks.is_free, running)):
            if running and not self._waiting:
                self._waiting = True
                self._view.say(f"Waiting for {len(running)} trials that run elsewhere.")
            time.sleep(_TICK * bool(running))
            return bool(running)
        wanted = max(1, min(study.spec.workers, search.trials - sum(t.state.is_finished() for t in trials)))
        before = self._progress()
        failed = self._launcher.launch(partial(work, self._order), wanted)
        for words in failed:
            self._view.say(f"A job of the launcher has failed: {words}")
        self._all_asked = not failed
        self._stillborn = self._stillborn + 1 if failed and self._progress() == before else 0
        if self._stillborn >= MAX_LAUNCH_FAILURES:
            raise RunFailed(f"The launcher's jobs end before they can work: {failed[0]}")
        return True

    def _progress(self) -> list[tuple[TrialState, Any]]:
        return [(t.state, t.user_attrs.get(STARTS)) for t in self._study.trials]

    def _watch(self) -> None:
        limit = self._study.spec.search.timeout
        with self._study.locks.hold(self._call - 1):
            with self._study.locks.hold(self._call):
                self._claimed.set()
                while not (self._over.wait(_TICK) or self._interrupted.is_set() or self._late):
                    self._show()
                    self._late = limit is not None and time.monotonic() - self._start > limit
            if not self._over.is_set():
                self._view.say(FINISHING if self._interrupted.is_set() else LATE)
            while not self._over.wait(_TICK):
                self._show()

    def _show(self) -> None:
        job = self._study.spec
        now = compute_status(self._study.trials, job.objectives)
        self._mirror.update(now)
        ended, seconds = len(now.done) + len(now.failed), time.monotonic() - self._start
        left = seconds / max(1, ended - self._before) * max(0, job.search.trials - ended) if ended else None
        self._view.show(now, [f"trial {t.number}" for t in now.running], seconds, left)


def work(given: dict[str, Any], config: DictConfig) -> None:
    """Is what a job of the launcher does: it works on the study until nothing is left or the command has ended.

    Args:
        given: The study, as `lightexp.search.pool.order` tells of it, and whose job this is.
        config: The job's, which says nothing more.
    """
    join_as_worker(given["origin"])
    job = StudySpec(**given["job"])
    view = _Quiet()
    study = SearchStudy(job, job.make_space(given["layers"]), Path(given["folder"]), view.say)
    if not study.locks.is_free(given["call"]):  # it may have waited for its turn on a cluster for longer
        Pool(study, given["layers"], given["command"], view, None, 1, given["call"]).run()


class _Quiet:
    """Says what is out of the ordinary; a launcher keeps it, or shows it."""

    def say(self, words: str) -> None:
        print("lightexp:", words, file=sys.stderr, flush=True)

    def show(self, now: StudyStatus, workers: list[str], seconds: float, left: float | None) -> None:
        pass
