"""`lightexp run`: a Hydra application around the runner.

Only Hydra is imported at the top: `--help` and `--cfg` need no more, and are to be quick.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lightexp.core import exceptions, interrupt
from lightexp.core.errors import BadInput, LightexpError, suggest_nearest
from lightexp.runner.config_dir import PRIMARY_CONFIG, find_config_dir

if TYPE_CHECKING:
    from lightexp.cli.terminal import Terminal
    from lightexp.core.record import Record
    from lightexp.runner.run import Runner
    from lightexp.tracking.process import MirrorProcess

INTERRUPTED = 130
PLAN = "--plan"
FLAGS = {name for action in get_args_parser()._actions for name in action.option_strings} | {PLAN}
_SWEEP = ("-m", "--multirun")
_LAUNCHER = "hydra/launcher="


def run(words: list[str], worker: MirrorProcess | None = None) -> int:
    """Runs `lightexp run` and returns the exit code.

    Args:
        words: The command line after `run`.
        worker: The process that mirrors records, if it has been started.
    """
    interrupt.install_handlers()
    application = _Application(words, worker)
    try:
        _check_flags(words)
        return application.start([word for word in words if word != PLAN])
    except LightexpError as error:
        complain(str(error))
        return error.exit_code
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        from lightexp.runner.compose import as_bad_input, is_config_error

        if not is_config_error(error):
            raise
        overrides = [word for word in words if not word.startswith("-")]
        complain(str(as_bad_input(error, overrides)))
        return BadInput.exit_code
    except OSError as error:
        if application.started:
            raise
        complain(f"paths.outputs cannot be used: {error.strerror}: {error.filename}. Set paths.outputs=FOLDER.")
        return BadInput.exit_code
    except KeyboardInterrupt:
        complain("Interrupted. What was finished is in the store; the same command goes on from there.")
        return INTERRUPTED


class Swept(Callback):
    """Hydra's callback that tells where the jobs of a sweep leave word, whatever process a launcher runs them in."""

    folder: Path | None = None

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Keeps the sweep's folder."""
        Swept.folder = Path(config.hydra.sweep.dir).absolute()

    @staticmethod
    def leave(run: Path) -> None:
        """Has a job leave word of its run."""
        hydra = HydraConfig.get()
        file = Path(hydra.sweep.dir) / f"job-{hydra.job.num}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(str(run.absolute()))

    @staticmethod
    def runs() -> list[Path]:
        """The runs of the jobs that left word, in their order."""
        files = list(Swept.folder.glob("job-*.txt")) if Swept.folder else []
        return [Path(f.read_text()) for f in sorted(files, key=lambda f: int(f.stem.partition("-")[2]))]


class _Application:
    """One call of the command: one run, or the jobs of a sweep."""

    def __init__(self, words: list[str], worker: MirrorProcess | None) -> None:
        self.plan_only = PLAN in words
        self._worker = worker
        self._done: list[Record] = []
        self._failed: list[LightexpError] = []
        self._sweep = False
        self._origin: dict[str, str] | None = None
        self.started = False

    def __getstate__(self) -> dict[str, Any]:
        """What a launcher takes to a job's process: nothing that belongs to this one."""
        from lightexp.runner.launcher import launch_origin

        kept = ("plan_only", "_sweep", "started")
        fresh: dict[str, Any] = {"_worker": None, "_done": [], "_failed": [], "_origin": launch_origin()}
        return {name: self.__dict__[name] for name in kept} | fresh

    @cached_property
    def terminal(self) -> Terminal:
        from lightexp.cli.terminal import Terminal

        return Terminal()

    @cached_property
    def _runner(self) -> Runner:
        from lightexp.runner.run import Runner

        return Runner(self.terminal, self._worker)

    def start(self, words: list[str]) -> int:
        os.environ["HYDRA_FULL_ERROR"] = "1"  # raise, so that we can say it in one line
        swept = [f"+hydra.callbacks.swept._target_={__name__}.Swept"] if set(words) & set(_SWEEP) else []
        sys.argv = ["lightexp run", *_flags_first(words), *swept]
        try:
            with _launching(words):
                hydra.main(version_base="1.3", config_path=str(find_config_dir()), config_name=PRIMARY_CONFIG)(
                    self._job
                )()
        finally:
            self._show_sweep()
        if self._failed and not self._sweep:
            raise self._failed[0]
        return min((error.exit_code for error in self._failed), default=0)

    def _show_sweep(self) -> None:
        """Shows the jobs of a sweep that are done, wherever they ran."""
        if not self._sweep and (runs := Swept.runs()):
            from lightexp.core.record import read_record

            self._done = [read_record(run) for run in runs]
        if self._done and (self._sweep or Swept.folder):
            self.terminal.sweep(self._done)

    def _job(self, config: DictConfig) -> None:
        """Runs one job. It raises nothing: a failed job of a sweep does not stop the others.

        In another process, where a launcher has all of them run whatever becomes of one, it raises to be heard of.
        """
        if self._origin:
            from lightexp.runner.launcher import join_as_worker

            join_as_worker(self._origin)
        self.started = True
        self._sweep = HydraConfig.get().mode is RunMode.MULTIRUN
        overrides: Any = OmegaConf.to_container(HydraConfig.get().overrides.task)  # interpolations as they stand
        try:
            self._run(config, overrides)
        except LightexpError as error:
            self._fail(error, overrides)
        except (Exception, SystemExit) as error:
            if interrupt.was_requested():
                raise
            self._fail(exceptions.summarize_exception(error, config.get("plugins") or ()), overrides)
        if self._origin and self._failed:
            raise self._failed[0]

    def _fail(self, error: LightexpError, overrides: list[str]) -> None:
        if self._sweep:
            complain(f"{' '.join(overrides)}: {error}")
        self._failed.append(error)

    def _run(self, config: DictConfig, overrides: list[str]) -> None:
        from lightexp.core.records import RUNS
        from lightexp.runner.compose import drop_removed_stages
        from lightexp.runner.settings import read_settings

        settings = read_settings(drop_removed_stages(config, overrides))
        if self._sweep:
            self.terminal.say(f"— {' '.join(overrides)}")
        if self.plan_only:
            from lightexp.runner.preview import preview_plan

            plan, data = self._runner.plan(settings)
            self.terminal.plan(plan, settings, *preview_plan(plan, settings, data))
            return
        sources = HydraConfig.get().runtime.config_sources
        own = [f"--config-dir={source.path}" for source in sources if source.provider == "command-line"]
        if (name := HydraConfig.get().job.config_name) != PRIMARY_CONFIG:
            own.append(f"--config-name={name}")
        record = self._runner.run(settings, overrides, test=not self._sweep, flags=own)
        self._done.append(record)
        if self._origin:
            Swept.leave(settings.outputs / RUNS / record.id)
        if not self._sweep:
            self.terminal.record(record, settings.outputs)


@contextmanager
def _launching(words: list[str]) -> Iterator[None]:
    if not any(word.startswith(_LAUNCHER) for word in words):
        yield
        return
    from lightexp.runner.launcher import sigint_blocked

    with sigint_blocked():
        yield


def complain(words: str) -> None:
    """Says what went wrong, on one line of standard error."""
    print("lightexp:", " ".join(words.split()), file=sys.__stderr__)


def _flags_first(words: list[str]) -> list[str]:
    """Flags, with the values that they take, before overrides: argparse takes those before a flag for all of them."""
    valued = {name for action in get_args_parser()._actions if action.nargs is None for name in action.option_strings}
    flags: list[str] = []
    overrides: list[str] = []
    for word in words:
        value = bool(flags) and flags[-1] in valued and not word.startswith("-")
        (flags if value or word.startswith("-") else overrides).append(word)
    return flags + overrides


def _check_flags(words: list[str]) -> None:
    for word in words:
        flag = word.partition("=")[0]
        if flag.startswith("--") and flag not in FLAGS:
            raise BadInput(f"{flag} is not a flag of lightexp run: {suggest_nearest(flag, FLAGS)}")
    if set(words) & set(_SWEEP) and set(words) & {"-c", "--cfg"}:
        raise BadInput("--cfg shows one config, -m runs several. Leave one of them out.")
