"""A process that tries one configuration after another; see `lightexp.search.pool`."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from lightexp.core import exceptions
from lightexp.core.errors import LightexpError
from lightexp.core.protocols import Progress
from lightexp.core.record import StageRecord
from lightexp.execution.json_lines import claim_stdout, reply
from lightexp.runner.run import Runner
from lightexp.runner.settings import Settings
from lightexp.search.pruners import EpochReporter
from lightexp.search.study import Proposal, SearchStudy
from lightexp.search.study_spec import StudySpec
from lightexp.stages.train import TrainingStage

STOP = "stop\n"
_PR_SET_PDEATHSIG = 1
_EVERY = 0.5  # seconds between two words on progress


def main() -> None:
    """Works on a study until nothing is left or it is told to stop. Ends with its parent, whatever ends that."""
    _die_with(int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    told = _Told(claim_stdout())
    order = json.loads(sys.stdin.readline())
    stopping = threading.Event()
    threading.Thread(target=_listen, args=[stopping], daemon=True).start()
    job = StudySpec(**order["job"])
    study = SearchStudy(job, job.make_space(order["layers"]), Path(order["folder"]), told.say)
    runner = Runner(told)
    while not stopping.is_set():
        if (proposal := study.ask()) is None:
            if not study.may_promote:
                break
            time.sleep(_EVERY)
            continue
        number = proposal.trial.number
        told.tell(trial=number, varied=proposal.varied)
        try:
            _try(job, study, runner, told, proposal, order["command"])
        except LightexpError as error:
            study.fail(number, str(error))
        except Exception as error:
            study.fail(number, str(exceptions.summarize_exception(error, job.settings.plain["plugins"])))
        told.tell(ended=number)


def _try(
    job: StudySpec, study: SearchStudy, runner: Runner, told: _Told, proposal: Proposal, command: list[str]
) -> None:
    settings, folder = (
        job.make_trial_settings(proposal.config, proposal.rung),
        study.get_trial_folder(proposal.trial.number),
    )
    told.reports = _reports(settings, runner, proposal) if job.search.pruner else None
    wanted = frozenset([o.name for o in job.objectives] + [c.name for c in job.constraints])
    record = runner.trial(settings, proposal.varied, folder, command, wanted=wanted)
    if told.reports and told.reports.stopped:
        study.prune(proposal, told.reports.stopped)
    else:
        study.finish(proposal, record)


def _reports(settings: Settings, runner: Runner, proposal: Proposal) -> EpochReporter:
    name = settings.fidelity
    stage = settings.stages[name] if name else None
    examples = len(runner.plan(settings)[1].train)
    return EpochReporter(
        proposal.trial, name, stage.schedule_epochs(examples) if isinstance(stage, TrainingStage) else 0
    )


def _die_with(parent: int) -> None:
    with suppress(OSError, AttributeError):  # Linux has it; elsewhere the closed input does, a little later
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _listen(stopping: threading.Event) -> None:
    for line in sys.stdin:
        if line == STOP:
            stopping.set()
    os._exit(1)  # the parent is gone


class _Told:
    """Tells the parent what happens; see `lightexp.runner.progress.ProgressReporter`."""

    reports: EpochReporter | None = None

    def __init__(self, out: TextIO) -> None:
        self._out, self._last, self._lock = out, 0.0, threading.Lock()

    def tell(self, **words: Any) -> None:
        with self._lock:
            reply(self._out, words)

    def say(self, words: str) -> None:
        self.tell(say=words)

    def finished(self, stage: StageRecord) -> None:
        pass

    def at(self, words: str) -> None:
        if time.monotonic() - self._last > _EVERY:
            self._last = time.monotonic()
            self.tell(at=words)

    @contextmanager
    def stage(self, name: str, number: int, of: int) -> Iterator[Progress]:
        self.at(name)
        yield _Stage(self, name)


class _Stage:
    def __init__(self, told: _Told, name: str) -> None:
        self._told, self._name = told, name

    def step(self, done: float, total: float, **figures: float) -> None:
        self._told.at(f"{self._name} {done:.0f}/{total:.0f}")
        if self._told.reports:
            self._told.reports.step(self._name, done, total, figures)

    def say(self, words: str) -> None:
        self._told.at(f"{self._name}: {words}")


if __name__ == "__main__":
    main()
