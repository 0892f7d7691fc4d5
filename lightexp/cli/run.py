"""`lightexp run`: a Hydra application around the runner, for one run or the jobs of a sweep.

Only Hydra is imported at the top, so that `--help` and `--cfg`, which need no more, answer quickly.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lightexp.cli.arguments import Arguments
from lightexp.cli.printing import is_output_closed, print_error, report_progress
from lightexp.core import compat, exceptions, interrupt
from lightexp.core.errors import INTERRUPTED, BadInput, LightexpError
from lightexp.runner.config_dir import PRIMARY_CONFIG, find_config_dir
from lightexp.runner.hydra_node import check_hydra_node, check_search_path

if TYPE_CHECKING:
    from lightexp.cli.terminal import Terminal
    from lightexp.core.record import Record
    from lightexp.runner.run import Runner
    from lightexp.runner.settings import Settings
    from lightexp.tracking.process import MirrorProcess

PLAN = "--plan"
JSON = "--json"
_SWEEP = ("-m", "--multirun")
_SHOW_CONFIG = ("-c", "--cfg")
_MAX_JOBS = 100_000
_LAUNCHER, _SWEEPER = "hydra/launcher=", "hydra/sweeper="
_TABLE = "table.md"
"""File of a sweep's folder that lists its jobs."""
_REFUSED_FLAGS = ("--experimental-rerun",)  # Hydra's, which unpickles the file that it names


def make_parser() -> Arguments:
    """Describe Hydra's flags and lightexp's. Hydra does the parsing; this checks flags and completes them."""
    parser = Arguments("run", add_help=False)
    for flags, has_value in compat.list_hydra_flags().items():
        if not set(flags) & set(_REFUSED_FLAGS):
            parser.add_argument(*flags, action="store" if has_value else "store_true")
    parser.add_argument(PLAN, action="store_true", help="show what would be done")
    parser.add_argument(JSON, action="store_true", help="print the record as a line of JSON, and progress to stderr")
    return parser


def run(argv: list[str], mirror_process: MirrorProcess | None = None) -> int:
    """Run `lightexp run`.

    Args:
        argv: The command line after `run`.
        mirror_process: The process that mirrors records in MLflow, if it has been started already.

    Returns:
        The exit code.
    """
    interrupt.install_handlers()
    application = _Application(argv, mirror_process)
    try:
        return application.start(_check_arguments(argv))
    except LightexpError as error:
        print_error(error)
        return error.exit_code
    except (HydraException, OmegaConfBaseException, ValueError, TypeError) as error:
        from lightexp.runner.compose import as_bad_input, is_config_error

        if not is_config_error(error):
            raise
        overrides = [argument for argument in argv if not argument.startswith("-")]
        print_error(str(as_bad_input(error, overrides)))
        return BadInput.exit_code
    except OSError as error:
        if application.started or is_output_closed(error):
            raise
        print_error(f"paths.outputs cannot be used: {error.strerror}: {error.filename}. Set paths.outputs=FOLDER.")
        return BadInput.exit_code
    except KeyboardInterrupt:
        print_error("Interrupted. What was finished is in the store; the same command goes on from there.")
        return INTERRUPTED


class SweptRuns(Callback):
    """Hydra callback that tells the sweep which runs its jobs made, whatever process a launcher ran them in."""

    folder: Path | None = None

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Remember the sweep's folder, in which jobs leave a file each."""
        SweptRuns.folder = Path(config.hydra.sweep.dir).absolute()

    @staticmethod
    def add(run_folder: Path) -> None:
        """Note the run of the job that calls this."""
        config = HydraConfig.get()
        path = Path(config.sweep.dir) / f"job-{config.job.num}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.fsencode(run_folder.absolute()))

    @staticmethod
    def list_folders() -> list[Path]:
        """Return the run folders of the jobs that have noted them, in the order of the jobs."""
        paths = list(SweptRuns.folder.glob("job-*.txt")) if SweptRuns.folder else []
        return [Path(os.fsdecode(path.read_bytes())) for path in sorted(paths, key=_read_job_number)]


def _read_job_number(path: Path) -> int:
    return int(path.stem.partition("-")[2])


class _Application:
    """One call of the command: one run, or the jobs of a sweep."""

    def __init__(self, argv: list[str], mirror_process: MirrorProcess | None) -> None:
        self.plan_only = PLAN in argv
        self._argv = argv
        self._prints_json = JSON in argv
        self.started = False
        self._mirror_process = mirror_process
        self._ended: list[Record] = []
        self._errors: list[LightexpError] = []
        self._is_sweep = False
        self._outputs: Path | None = None
        self._origin: dict[str, str] | None = None
        self._output_error: BaseException | None = None
        self._count_checked = report_progress("configs of the sweep checked")

    def __getstate__(self) -> dict[str, Any]:
        """Return what a launcher pickles for a job's process: nothing that belongs to this process."""
        from lightexp.execution.launcher import launch_origin

        names = ("plan_only", "started", "_is_sweep", "_prints_json", "_argv")
        fresh: dict[str, Any] = {"_mirror_process": None, "_ended": [], "_errors": [], "_output_error": None}
        fresh |= {"_origin": launch_origin(), "_outputs": None}
        return {name: self.__dict__[name] for name in names} | fresh

    @cached_property
    def terminal(self) -> Terminal:
        """The user's terminal, which takes a moment to import."""
        from lightexp.cli.terminal import Terminal

        return Terminal()

    @cached_property
    def _runner(self) -> Runner:
        from lightexp.runner.run import Runner

        return Runner(self.terminal, self._mirror_process, on_end=self._note_end)

    def start(self, argv: list[str]) -> int:
        """Hand the command line to Hydra, which calls `_run_job` for each job; return the exit code."""
        os.environ["HYDRA_FULL_ERROR"] = "1"  # makes Hydra raise its errors, which `run` prints as one line
        sys.argv = ["lightexp run", *make_parser().move_flags_first(argv)]
        if _requests_sweep(argv):
            sys.argv.append(f"+hydra.callbacks.swept._target_={__name__}.{SweptRuns.__name__}")
        application = hydra.main(version_base="1.3", config_path=str(find_config_dir()), config_name=PRIMARY_CONFIG)
        try:
            with _launching(argv), compat.checked_hydra_configs(self._check_config, check_search_path):
                application(self._run_job)()
        finally:
            self._show_sweep()
        if self._output_error:
            raise self._output_error
        if self._errors and not self._is_sweep:
            raise self._errors[0]
        return min((error.exit_code for error in self._errors), default=0)

    def _check_config(self, config: Any, overrides: Sequence[str]) -> None:
        """Check a config, and report how many were checked: before its first job, a sweep composes those of all."""
        check_hydra_node(config, overrides)
        if _requests_sweep(self._argv) and not (self.started or self._origin):
            self._count_checked()

    def _show_sweep(self) -> None:
        """Show the finished jobs of a sweep, whatever process they ran in."""
        if not self._is_sweep and (folders := SweptRuns.list_folders()):
            from lightexp.core.record import read_record

            self._ended = [read_record(folder) for folder in folders]
        if SweptRuns.folder is None:
            return
        if finished := [record for record in self._ended if record.status == "done"]:
            self._end_group(SweptRuns.folder, finished)
        if self._prints_json:
            for record in self._ended:
                _print_json(record)
        elif finished:
            self.terminal.sweep(finished, SweptRuns.folder / _TABLE)

    def _end_group(self, folder: Path, finished: list[Record]) -> None:
        """Write the sweep's table into its folder, and show it in MLflow with the parent run of the jobs."""
        from lightexp.cli.terminal import build_sweep_table
        from lightexp.core.table import render_markdown
        from lightexp.tracking.mlflow import describe_recorded_mirror
        from lightexp.tracking.run_groups import find_group

        table = folder / _TABLE
        folder.mkdir(parents=True, exist_ok=True)
        table.write_text(f"{render_markdown(build_sweep_table(finished))}\n", encoding="utf-8")
        record = finished[-1]
        outputs = self._outputs or SweptRuns.list_folders()[-1].parents[1]
        group, mirror = find_group(record.tags, outputs), describe_recorded_mirror(record, outputs)
        if group is None or mirror is None or "run_id" not in record.mlflow:
            return
        status = "FAILED" if self._errors else "FINISHED"
        self._runner.track_group(group, mirror).end("KILLED" if interrupt.was_requested() else status, table)

    def _run_job(self, config: DictConfig) -> None:
        """Run one job. A failed job of a sweep raises nothing, so that the others go on.

        In another process, where a launcher runs all jobs whatever becomes of one, the job raises to be heard of.
        """
        if self._origin:
            from lightexp.execution.launcher import join_as_worker

            join_as_worker(self._origin)
        self.started = True
        self._is_sweep = HydraConfig.get().mode is RunMode.MULTIRUN
        overrides: Any = OmegaConf.to_container(HydraConfig.get().overrides.task)  # interpolations are kept
        try:
            self._run(config, overrides)
        except LightexpError as error:
            self._add_error(error, overrides)
        except (Exception, SystemExit) as error:  # a plugin's stage may raise anything; the sweep's other jobs go on
            if interrupt.was_requested():
                raise
            if is_output_closed(error):  # Hydra would print what it hears of
                self._output_error = error
                return
            self._add_error(exceptions.summarize_exception(error, config.get("plugins") or ()), overrides)
        if self._origin and self._errors:
            raise self._errors[0]

    def _add_error(self, error: LightexpError, overrides: list[str]) -> None:
        if self._is_sweep:
            print_error(f"{' '.join(overrides)}: {error}")
        self._errors.append(error)

    def _run(self, config: DictConfig, overrides: list[str]) -> None:
        from lightexp.runner.compose import drop_removed_stages
        from lightexp.runner.settings import read_settings
        from lightexp.tracking.run_groups import build_sweep_tags

        settings = read_settings(drop_removed_stages(config, overrides))
        swept = [override for override in overrides if override not in self._argv]
        if self._is_sweep:
            self.terminal.say(f"— {' '.join(swept or overrides)}")
        if self.plan_only:
            self._show_plan(settings)
            return
        tags: dict[str, str] = {}
        if self._is_sweep:
            tags = build_sweep_tags(Path(HydraConfig.get().sweep.dir), swept)
        flags = _list_config_flags()
        self._outputs = settings.outputs
        record = self._runner.run(settings, overrides, test=not self._is_sweep, flags=flags, tags=tags)
        if not (self._is_sweep or self._prints_json):
            self.terminal.record(record, settings.outputs)

    def _note_end(self, record: Record) -> None:
        """Keep the record of a run that has ended, also of one that failed, and print it if it is not of a sweep."""
        from lightexp.core.records import RUNS

        self._ended.append(record)
        if self._origin:
            assert self._outputs is not None
            SweptRuns.add(self._outputs / RUNS / record.id)
        if self._prints_json and not self._is_sweep:
            _print_json(record)

    def _show_plan(self, settings: Settings) -> None:
        from lightexp.runner.preview import preview_plan

        plan, data = self._runner.plan(settings)
        places = self._runner.open_store(settings).locate([node.key for node in plan.nodes])
        self.terminal.plan(plan, settings, data, places, preview_plan(plan, settings, data))


def _list_config_flags() -> list[str]:
    """Return the flags that the present job's config was composed with, for the command that runs it again."""
    config = HydraConfig.get()
    sources = [source for source in config.runtime.config_sources if source.provider == "command-line"]
    flags = [f"--config-dir={source.path}" for source in sources]
    if config.job.config_name != PRIMARY_CONFIG:
        flags.append(f"--config-name={config.job.config_name}")
    return flags


@contextmanager
def _launching(argv: list[str]) -> Iterator[None]:
    """Block Ctrl-C in the processes that a launcher starts: this command ends them.

    Raises:
        BadInput: If the Ray cluster that the command line names cannot be used.
    """
    if not any(argument.startswith(_LAUNCHER) for argument in argv):
        yield
        return
    from lightexp.execution.launcher import sigint_blocked
    from lightexp.runner.launcher import connect_grid

    if _requests_sweep(argv):
        connect_grid(argv)
    with sigint_blocked():
        yield


def _print_json(record: Record) -> None:
    from lightexp.cli.printing import print_line

    print_line(record.to_json())


def _check_arguments(argv: list[str]) -> list[str]:
    """Return the command line for Hydra, without lightexp's flags; raise BadInput where flags are wrong."""
    make_parser().check_flags(argv)
    if _requests_sweep(argv) and set(argv) & set(_SHOW_CONFIG):
        raise BadInput("--cfg shows one config, -m runs several. Received: both. Leave one of them out.")
    if JSON in argv and (shown := [argument for argument in argv if argument in (PLAN, *_SHOW_CONFIG)]):
        raise BadInput(f"{JSON} prints a run's record, and {shown[0]} runs nothing. Leave one of them out.")
    if _requests_sweep(argv) and not any(argument.startswith(_SWEEPER) for argument in argv):
        _check_job_count([argument for argument in argv if "=" in argument and not argument.startswith("-")])
    return [argument for argument in argv if argument not in (PLAN, JSON)]


def _requests_sweep(argv: list[str]) -> bool:
    return any(flag in argv for flag in _SWEEP)


def _check_job_count(overrides: list[str]) -> None:
    """Refuse a sweep of so many jobs that Hydra, which lists them first, would fill the memory."""
    from lightexp.runner.launcher import count_jobs

    if (jobs := count_jobs(overrides)) > _MAX_JOBS:
        raise BadInput(
            f"-m runs at most {_MAX_JOBS:,} jobs. Received: {jobs:,}. Give fewer values, or use lightexp search."
        )
