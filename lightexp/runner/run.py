"""A run from its settings to its record: what `lightexp run` does after the config has been checked."""

from __future__ import annotations

import json
import shlex
import shutil
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from lightexp.core import exceptions, interrupt
from lightexp.core.data import Data
from lightexp.core.errors import LightexpError
from lightexp.core.protocols import ENCODED, TFLITE, Dataset
from lightexp.core.record import Record
from lightexp.core.store import Store, explain_disk_errors
from lightexp.report import heatmap, tradeoff
from lightexp.runner import environment, run_lock
from lightexp.runner.compose import compose_settings as compose
from lightexp.runner.execute import Executor, Measured
from lightexp.runner.order import check_order
from lightexp.runner.plan import Plan, make_plan
from lightexp.runner.progress import ProgressReporter
from lightexp.runner.settings import Settings
from lightexp.tracking.mirror import Mirror, NoTracking
from lightexp.tracking.process import MirrorProcess
from lightexp.tracking.remote_mirror import RemoteMirror

ERROR = "error.txt"


class Runner:
    """Runs pipelines, one after another; what they share (the loaded data, MLflow's client) is kept between them."""

    def __init__(self, watch: ProgressReporter, worker: MirrorProcess | None = None) -> None:
        """Opens nothing yet.

        Args:
            watch: Shows progress.
            worker: The process that mirrors; started when it is needed. Whoever starts it early saves its start-up.
        """
        self._watch = watch
        self._worker = worker
        self._data: tuple[Dataset, Data] | None = None
        self._mirrors: dict[str, Mirror] = {}
        self._measured: Measured = {}
        self._environment: dict[str, Any] = {}

    def plan(self, settings: Settings) -> tuple[Plan, Data]:
        """Plans a run: the order first, then the data.

        Raises:
            BadInput: If the stages' order, the data or a setting cannot be used.
        """
        check_order(settings)
        settings.dataset.check()
        if self._data is None or self._data[0] != settings.dataset:
            self._data = settings.dataset, settings.dataset.load()
            if large := [name for name, split in self._data[1].splits.items() if split.on_disk]:
                self._watch.say(f"Kept on disk, by dataset.memory_mb, and read batch by batch: {', '.join(large)}.")
        data = settings.model.select_view(self._data[1])
        return make_plan(settings, data, compose), data

    def run(
        self,
        settings: Settings,
        overrides: list[str],
        test: bool = True,
        flags: Sequence[str] = (),
        tags: Mapping[str, str] | None = None,
    ) -> Record:
        """Runs one pipeline and keeps its record, whatever becomes of it.

        Args:
            settings: Typed settings.
            overrides: What they were made from, for the record.
            test: Whether the test split may be looked at: not by the jobs of a sweep.
            flags: Of the command line that runs it again, such as `--config-dir`.
            tags: What the run belongs to. Defaults to nothing.

        Raises:
            LightexpError: If the run failed; its record says so.
            KeyboardInterrupt: If it was interrupted; likewise.
        """
        plan, data = self.plan(settings)
        store = Store(settings.outputs / "store")
        executor = Executor(plan, settings, data, store, self._watch)
        executor.check()
        mirror = self._mirror(settings.plain, settings.outputs)
        record = self._record(settings, plan, data, overrides, ["lightexp", "run", *flags, *overrides])
        record.tags = dict(tags or {})
        runs = settings.outputs / "runs"
        folder = runs / record.id
        with explain_disk_errors(settings.outputs):
            run_lock.reap_dead_runs(runs, lambda killed: self._mirror(killed.config, settings.outputs))
            with run_lock.hold(runs, record.id), ThreadPoolExecutor(1) as aside:
                folder.mkdir(parents=True)
                record.write(folder)
                self._watch.say(f"{record.name}: {settings.threads} threads, seed {settings.seed}, into {folder}")
                if left_out := set(settings.plain["pipeline"]["stages"]) - {node.name for node in plan.nodes}:
                    self._watch.say(f"The model's file is trained: left out {', '.join(sorted(left_out))}.")
                shown = aside.submit(_show, mirror, record, folder)
                error = self._worked(record, folder, lambda: self._work(record, folder, executor, plan, test))
                record.write(folder)  # whatever MLflow takes its time over, the run has ended
                store.release()
                shown.result()
                record.write(folder)
                mirror.end(record, folder)
                record.write(folder)
        if error:
            raise error
        return record

    def trial(
        self,
        settings: Settings,
        varied: list[str],
        folder: Path,
        command: list[str],
        test: bool = False,
        wanted: frozenset[str] | None = None,
    ) -> Record:
        """Runs one configuration of a study: its control and its file are measured.

        Nothing is mirrored and nothing drawn: a study shows its trials together.

        Args:
            settings: Typed settings.
            varied: What the study has set, for the record.
            folder: Where the record goes; made if it is not there.
            command: Of the study.
            test: Whether the test split may be looked at: not before the study has ended.
            wanted: See `Subject`.

        Returns:
            The record, also of a run that failed.

        Raises:
            BadInput: If the stages' order, the data or a setting cannot be used.
            KeyboardInterrupt: If it was interrupted.
        """
        plan, data = self.plan(settings)
        store = Store(settings.outputs / "store")
        executor = Executor(plan, settings, data, store, self._watch, self._measured)
        executor.check()
        record = self._record(settings, plan, data, varied, command)
        folder.mkdir(parents=True, exist_ok=True)

        def work() -> None:
            record.stages = executor.make()
            executor.measure(record.stages, test, only=(plan.control.name, plan.nodes[-1].name), wanted=wanted)
            record.waived = executor.verify(record.stages)

        error = self._worked(record, folder, work)
        store.release()
        record.write(folder)
        if isinstance(error, KeyboardInterrupt):
            raise error
        return record

    def _record(self, settings: Settings, plan: Plan, data: Data, varied: list[str], command: list[str]) -> Record:
        source = self._data[1] if self._data else data  # labels as the source has them
        stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
        self._environment = self._environment or environment.describe_environment(
            settings.threads
        )  # asks git: once is enough
        return Record(
            id=f"{stamp}-{uuid.uuid4().hex[:6]}",
            name=settings.name,
            command=shlex.join(command),
            config=settings.plain,
            varied=varied,
            environment={**self._environment, "threads": settings.threads},
            started=time.time(),
            control=plan.control.name,
            keys=plan.keys,
            dataset={
                "name": data.name,
                "classes": data.classes,
                "shape": list(data.shape),
                "labels": list(data.names) or [str(number) for number in range(data.classes)],
                "scale": data.scale,
                "offset": data.offset,
                "splits": {s: {"n": len(v), "digest": v.digest} for s, v in source.splits.items()},
            },
        )

    def show_again(self, record: Record, settings: Settings) -> None:
        """Writes and mirrors a finished run's record anew, after something has been added to it."""
        folder = settings.outputs / "runs" / record.id
        with explain_disk_errors(settings.outputs):
            tradeoff.write(record, folder)
            record.write(folder)
            self._mirror(settings.plain, settings.outputs).end(record, folder)
            record.write(folder)

    def _worked(
        self, record: Record, folder: Path, work: Callable[[], None]
    ) -> LightexpError | KeyboardInterrupt | None:
        """Does the work and enters in the record how it ended; returns the error that ended it, if one did."""
        error: LightexpError | KeyboardInterrupt | None = None
        try:
            work()
            record.status = "done"
        except KeyboardInterrupt as stop:
            record.status, record.reason, error = "interrupted", "interrupted", stop
        except LightexpError as plain:
            record.status, record.reason, error = "failed", str(plain), plain
        except (Exception, SystemExit) as strange:
            if interrupt.was_requested():
                record.status, record.reason, record.ended = "interrupted", "interrupted", time.time()
                return KeyboardInterrupt()
            error = exceptions.summarize_exception(strange, record.config["plugins"], folder / ERROR)
            record.status, record.reason = "failed", str(error)
        record.ended = time.time()
        return error

    def _work(self, record: Record, folder: Path, executor: Executor, plan: Plan, test: bool) -> None:
        record.stages = executor.make()
        executor.measure(record.stages, test)
        record.waived = executor.verify(record.stages)
        shipped = executor.shipped(plan.nodes[-1])
        shutil.copyfile(shipped.tflite, folder / TFLITE)
        tradeoff.write(record, folder)
        record.files = {
            "model": TFLITE,
            "control": str(executor.shipped(plan.control).tflite),
            "config": "config.yaml",
            "table": tradeoff.TABLE,
            "figure": tradeoff.FIGURE,
            **heatmap.write(record, folder),
        }
        if shipped.encoded:
            shutil.copyfile(shipped.encoded, folder / ENCODED)
            record.files["encoded"] = ENCODED
        (folder / "config.yaml").write_text(OmegaConf.to_yaml(record.config))
        (folder / "environment.json").write_text(json.dumps(record.environment, indent=1) + "\n")

    def _mirror(self, config: dict[str, Any], outputs: Path) -> Mirror:
        """The mirror that a run's config asks for, over all runs in `outputs`."""
        place = json.dumps([config["tracking"], config["plugins"], str(outputs)])
        if place not in self._mirrors:
            tracking, plugins = config["tracking"], config["plugins"]
            if tracking["_target_"] == f"{NoTracking.__module__}.{NoTracking.__name__}":
                return NoTracking().mirror(outputs, self._watch.say)  # needs no process
            self._worker = self._worker or MirrorProcess()
            self._mirrors[place] = RemoteMirror(self._worker, tracking, plugins, outputs, self._watch.say)
        return self._mirrors[place]


def _show(mirror: Mirror, record: Record, folder: Path) -> None:
    mirror.start(record)
    record.write(folder)  # says where it is shown, for whoever finds the run killed
