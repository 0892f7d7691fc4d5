"""One run from its settings to its record: what `lightexp run` does once the config has been checked."""

from __future__ import annotations

import shlex
import shutil
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from lightexp.core import exceptions, interrupt
from lightexp.core.data import Data
from lightexp.core.disk_errors import DiskFull, explain_disk_errors
from lightexp.core.errors import BadInput, LightexpError, RunFailed
from lightexp.core.formatting import format_count
from lightexp.core.json_text import encode_json
from lightexp.core.memory_plan import plan_memory
from lightexp.core.protocols import ENCODED, TFLITE, Dataset
from lightexp.core.record import Record
from lightexp.core.records import RUNS
from lightexp.core.remote_lease import Leases
from lightexp.core.store import Store
from lightexp.core.store_sync import StoreSync, connect_store
from lightexp.report import heatmap, memory_plot, npu_layers, tradeoff
from lightexp.runner import environment, run_lock
from lightexp.runner.compose import compose_settings
from lightexp.runner.dataset_facts import describe_dataset
from lightexp.runner.execute import Executor, ExecutorCache
from lightexp.runner.inferred_task import prepare_inferred
from lightexp.runner.order import check_order
from lightexp.runner.plan import Plan, make_plan
from lightexp.runner.progress import ProgressReporter
from lightexp.runner.settings import Settings
from lightexp.tracking.mirror import MirrorSettings
from lightexp.tracking.process import MirrorProcess
from lightexp.tracking.remote_mirror import RemoteMirror
from lightexp.tracking.run_groups import RunGroup, RunGroupTracker

ERROR = "error.txt"
"""The file in a run's folder that holds the traceback of an unexpected error."""


class Runner:
    """Run pipelines, one after another; the loaded data and the connection to MLflow are kept between them."""

    def __init__(
        self,
        reporter: ProgressReporter,
        mirror_process: MirrorProcess | None = None,
        leases: Leases | None = None,
        on_end: Callable[[Record], None] = lambda record: None,
    ) -> None:
        """Open nothing yet.

        Args:
            reporter: Shows progress.
            mirror_process: The process that mirrors records, if it has been started early, which saves its start-up.
                Defaults to starting one when the first run asks for a mirror.
            leases: Which host makes an entry of the remote store. Defaults to leases in that store.
            on_end: Takes the record of each run that has ended, also of one that failed. Defaults to doing nothing.
        """
        self._reporter, self._leases, self._on_end = reporter, leases, on_end
        self._mirror = RemoteMirror(reporter.say, mirror_process)
        self._data: tuple[Dataset, Data] | None = None
        self._noted: tuple[Dataset, tuple[str, ...]] | None = None  # the notes that have been shown
        self._cache = ExecutorCache()
        self._environment: dict[str, Any] = {}
        self._syncs: dict[str, StoreSync] = {}

    def open_store(self, settings: Settings, say: Callable[[str], None] | None = None) -> Store:
        """Open the store of a run.

        Args:
            settings: Typed settings.
            say: Takes each line about the remote store for the user, if this is its first use. Defaults to the
                reporter's.

        Raises:
            BadInput: If the remote store of the settings cannot be used by anybody.
        """
        sync, url = None, settings.remote_store
        if url is not None and (sync := self._syncs.get(url)) is None:
            sync = connect_store(url, say or self._reporter.say, self._leases)
            self._syncs[url] = sync
        return Store(settings.outputs / "store", sync)

    def plan(self, settings: Settings) -> tuple[Plan, Data]:
        """Plan a run: check the order of stages first, then load the data.

        Args:
            settings: Typed settings.

        Returns:
            The plan, and the data as the model sees it.

        Raises:
            BadInput: If the stages' order, the data or a setting cannot be used.
        """
        check_order(settings)
        dataset = settings.dataset.resolve(settings.model).serve(settings.task)
        dataset.check()
        if self._data is None or self._data[0] != dataset:
            self._data = dataset, dataset.load()
            for note in self._data[1].describe_storage():
                self._reporter.say(note)
        prepare = partial(prepare_inferred, settings.task) if settings.is_task_inferred else settings.task.prepare
        data = settings.model.select_view(prepare(self._data[1]))
        if self._noted != (self._data[0], data.notes):
            self._noted = self._data[0], data.notes
            for note in data.notes:
                self._reporter.say(note)
        return make_plan(settings, data, compose_settings), data

    def run(
        self,
        settings: Settings,
        overrides: list[str],
        test: bool = True,
        flags: Sequence[str] = (),
        tags: Mapping[str, str] | None = None,
    ) -> Record:
        """Run one pipeline and write its record, whether it succeeds or not.

        Args:
            settings: Typed settings.
            overrides: The overrides that the settings were made from, for the record.
            test: Whether the test split may be looked at: not by the jobs of a sweep. Defaults to True.
            flags: Of the command line that runs it again, such as `--config-dir`. Defaults to none.
            tags: What the run belongs to, such as an ablation's row. Defaults to nothing.

        Returns:
            The record.

        Raises:
            LightexpError: If the run failed; its record says so.
            KeyboardInterrupt: If it was interrupted; its record says so.
        """
        plan, data = self.plan(settings)
        store = self.open_store(settings)
        executor = Executor(plan, settings, data, store, self._reporter)
        executor.check()
        record = self._make_record(settings, plan, data, overrides, ["lightexp", "run", *flags, *overrides])
        record.tags = dict(tags or {})
        with explain_disk_errors(settings.outputs):
            self.close_dead_runs(settings)
            with store.closing(), run_lock.hold(settings.outputs / RUNS, record.id):
                self._run_recorded(record, settings, plan, executor, store, test)
        return record

    def _run_recorded(
        self, record: Record, settings: Settings, plan: Plan, executor: Executor, store: Store, test: bool
    ) -> None:
        """Run a pipeline, and write and mirror its record before and after; raise what the run failed with."""
        folder, mirror_settings = settings.outputs / RUNS / record.id, describe_mirror(settings)
        with ThreadPoolExecutor(1) as thread:
            folder.mkdir(parents=True)
            _write_shared(record, folder, store)
            first_sync = thread.submit(self._sync, mirror_settings, folder, record)  # in parallel to the work
            self._announce(settings, plan, record, folder)
            work = partial(self._work, record, folder, executor, plan, test)
            error = self._catch(record, folder, settings.plain["plugins"], work)
            _write_shared(record, folder, store)  # the run has ended, however long MLflow takes
            try:
                first_sync.result()
                record.write(folder)
                self._sync(mirror_settings, folder, record)
            except KeyboardInterrupt as stop:
                error = stop
        self._on_end(record)
        if error:
            raise error

    def close_dead_runs(self, settings: Settings) -> None:
        """Mark the runs whose processes have died as killed, in their records and in the mirror of the settings."""
        sync = partial(self._sync, describe_mirror(settings), create=False)
        run_lock.reap_dead_runs(settings.outputs / RUNS, sync)

    def publish(self, settings: Settings, record: Record) -> None:
        """Write and mirror a finished run's record again, after something has been added to it."""
        folder = settings.outputs / RUNS / record.id
        with explain_disk_errors(settings.outputs):
            tradeoff.write(record, folder)
            record.write(folder)
            self._sync(describe_mirror(settings), folder, record)

    def track_group(self, group: RunGroup, mirror_settings: MirrorSettings) -> RunGroupTracker:
        """Return what shows a group of this runner's runs, through the same process as the runs; not during a run."""
        return RunGroupTracker(group, mirror_settings, self._mirror)

    def trial(
        self,
        settings: Settings,
        varied: list[str],
        folder: Path,
        command: list[str],
        test: bool = False,
        requested: frozenset[str] | None = None,
    ) -> Record:
        """Run one configuration of a study, and measure its control and the file that it would ship.

        Nothing is mirrored and nothing drawn: a study shows its trials together.

        Args:
            settings: Typed settings.
            varied: What the study has set, for the record.
            folder: The record's folder, which is created if needed.
            command: The study's command.
            test: Whether the test split may be looked at: not before the study has ended. Defaults to False.
            requested: See `MeasurementContext`.

        Returns:
            The record, also of a run that failed.

        Raises:
            BadInput: If the stages' order, the data or a setting cannot be used.
            DiskFull: If there is no space for the results.
            KeyboardInterrupt: If it was interrupted.
        """
        plan, data = self.plan(settings)
        store = self.open_store(settings)
        executor = Executor(plan, settings, data, store, self._reporter, self._cache)
        executor.check()
        record = self._make_record(settings, plan, data, varied, command)
        folder.mkdir(parents=True, exist_ok=True)
        store.share_record(record.id, record.to_json)

        def work() -> None:
            record.stages = executor.make()
            executor.measure(record.stages, test, only=(plan.control.name, plan.nodes[-1].name), requested=requested)
            record.waived = executor.verify(record.stages)

        with store.closing():
            error = self._catch(record, folder, settings.plain["plugins"], work)
            with explain_disk_errors(settings.outputs):
                _write_shared(record, folder, store)
            if isinstance(error, KeyboardInterrupt | DiskFull):
                raise error
        return record

    def _make_record(self, settings: Settings, plan: Plan, data: Data, varied: list[str], command: list[str]) -> Record:
        source = self._data[1] if self._data else data  # with the labels that the data set itself has
        stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
        if not self._environment:  # it asks git, which once is enough for
            self._environment = environment.describe_environment(settings.threads)
        return Record(
            id=f"{stamp}-{uuid.uuid4().hex[:6]}",
            name=settings.name,
            command=shlex.join(command),
            config=settings.written,
            varied=varied,
            environment={**self._environment, "threads": settings.threads},
            started=time.time(),
            control=plan.control.name,
            keys=plan.keys,
            dataset=describe_dataset(data, source),
        )

    def _announce(self, settings: Settings, plan: Plan, record: Record, folder: Path) -> None:
        self._reporter.announce_run(
            f"{record.name}: {format_count(settings.threads, 'thread')}, seed {settings.seed}, into {folder}"
        )
        if left_out := set(settings.plain["pipeline"]["stages"]) - {node.name for node in plan.nodes}:
            self._reporter.say(f"The model's file is trained: left out {', '.join(sorted(left_out))}.")

    def _sync(self, mirror_settings: MirrorSettings, folder: Path, record: Record, create: bool = True) -> bool:
        """Bring MLflow to the state of the record in the folder, and write into it where the run is shown.

        Returns:
            Whether all is shown that has to be.
        """
        result = self._mirror.sync(folder, record, mirror_settings, create)
        if result.changed:
            record.write(folder)
        return "missing" not in result.place

    def _catch(
        self, record: Record, folder: Path, plugins: Sequence[str], work: Callable[[], None]
    ) -> LightexpError | KeyboardInterrupt | None:
        """Do the work, enter in the record how it ended, and return the error that ended it, if one did."""
        error: LightexpError | KeyboardInterrupt | None = None
        try:
            work()
            record.status = "done"
        except KeyboardInterrupt as stop:
            record.status, record.reason, error = "interrupted", "interrupted", stop
        except LightexpError as failure:
            # The exit code of bad input is for what leaves no record.
            error = RunFailed(str(failure)) if isinstance(failure, BadInput) else failure
            record.status, record.reason = "failed", str(failure)
        except (Exception, SystemExit) as unexpected:  # a plugin's stage may raise anything; the record says what
            if interrupt.was_requested():
                record.status, record.reason, error = "interrupted", "interrupted", KeyboardInterrupt()
            else:
                error = exceptions.summarize_exception(unexpected, plugins, folder / ERROR)
                record.status, record.reason = "failed", str(error)
        record.ended = time.time()
        return error

    def _work(self, record: Record, folder: Path, executor: Executor, plan: Plan, test: bool) -> None:
        """Make the stages, measure them, and write the run's files."""
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
            **_write_memory(record, folder),
            **npu_layers.write(record, folder),
        }
        if shipped.encoded:
            shutil.copyfile(shipped.encoded, folder / ENCODED)
            record.files["encoded"] = ENCODED
        (folder / "config.yaml").write_text(OmegaConf.to_yaml(record.config), encoding="utf-8")
        (folder / "environment.json").write_text(encode_json(record.environment, indent=1) + "\n", encoding="utf-8")


def _write_memory(record: Record, folder: Path) -> dict[str, str]:
    """Write the RAM of a run's file at each operator if it was run as on a microcontroller; return the files' names."""
    if "micro/arena_bytes" not in record.metrics:
        return {}
    from lightexp.backend import flatbuffer

    return memory_plot.write(plan_memory(flatbuffer.read_graph(folder / TFLITE)), folder, record.name)


def _write_shared(record: Record, folder: Path, store: Store) -> None:
    """Write a record into its folder, and into the remote store if there is one."""
    record.write(folder)
    store.share_record(record.id, record.to_json)


def describe_mirror(settings: Settings) -> MirrorSettings:
    """Return what opens the mirror that a run's settings ask for."""
    return MirrorSettings(settings.plain["tracking"], settings.plain["plugins"], str(settings.outputs))
