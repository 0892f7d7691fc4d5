"""`lightexp search`: a study of a pipeline's settings."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Any

from lightexp.core import interrupt
from lightexp.core.errors import BadInput, RunFailed, suggest_nearest
from lightexp.runner.config_dir import find_config_dir

if TYPE_CHECKING:
    from hydra.types import HydraContext
    from omegaconf import DictConfig

    from lightexp.core.data import Data
    from lightexp.execution.launcher import Launcher
    from lightexp.runner.run import Runner
    from lightexp.search.space import SearchSpace
    from lightexp.search.study_spec import StudySpec

_INTERRUPTED = 130
PLAN, FOLDER, HELP = "--plan", "--config-dir", ("-h", "--help")
FLAGS = (PLAN, FOLDER, *HELP)
_HELP = """lightexp search [--plan] [--config-dir DIR] [setting=value ...] [setting=range ...]

Lets Optuna find the trade-off front of a pipeline's settings, under constraints. The same command goes on with a study,
and on another host with the same storage joins it.

  lightexp search                                                the default preset on digits
  lightexp search --plan                                         what is searched, and what is tried first
  lightexp search 'pipeline.stages.prune.sparsity=interval(0.5,0.98)'   interval(), range(), choice(), tag(log, ...)
  lightexp search 'pipeline.stages.prune=choice(on,off)'         a stage as a choice; in what order: pipeline.order=
  lightexp search search.space=auto                              the default ranges of every stage
  lightexp search "search.constraints=['size/file_bytes <= 64 KiB', 'accuracy/val >= control - 0.01']"
  lightexp search search.trials=200 search.workers=2             trials of the whole study, and processes

Presets (search=NAME): {presets}. Everything that lightexp run takes can be set, too.

search.* and their defaults:
{settings}
Exit codes: 0 done, 1 failed, 2 bad input, 130 interrupted.
"""


def run(words: list[str]) -> int:
    """Runs `lightexp search` and returns the exit code.

    Args:
        words: The command line after `search`.
    """
    if set(words) & set(HELP):
        settings = (find_config_dir() / "search" / "_settings.yaml").read_text().splitlines()[1:]
        presets = sorted(path.stem for path in (find_config_dir() / "search").glob("[!_]*.yaml"))
        print(_HELP.format(presets=", ".join(presets), settings="\n".join(f"  {line}" for line in settings)), end="")
        return 0
    interrupt.install_handlers()
    overrides, folders, plan = _read(words)
    from lightexp.runner.launcher import select_launcher, split_hydra_overrides
    from lightexp.search.study_spec import StudySpec

    hydra, overrides = split_hydra_overrides(overrides)
    spec = StudySpec(overrides, folders)
    launcher = select_launcher(hydra, folders, spec.settings.outputs) if hydra else None
    if plan:
        return _planned(spec)
    command = ["lightexp", "search", *words]
    code = _searched(spec, command, launcher)
    if code == _INTERRUPTED:
        print(f"lightexp: Interrupted. This goes on: {shlex.join(command)}", file=sys.__stderr__)
        _explain_untested_front(command, "search.test=now")
    return code


def run_sweep(words: list[str], fields: dict[str, Any], config: DictConfig, context: HydraContext, plan: bool) -> None:
    """Runs, or plans, a study as the sweeper of `lightexp run -m`.

    Args:
        words: Overrides, of which the sweeps are the space.
        fields: Of `search`.
        config: The composed config, with its node `hydra`.
        context: Hydra's.
        plan: Whether only to plan.

    Raises:
        LightexpError: If it is wrong, or no trial of it has succeeded.
        KeyboardInterrupt: If it was interrupted.
    """
    from lightexp.execution.launcher import Launcher
    from lightexp.runner.launcher import drop_sweeps
    from lightexp.search.study_spec import StudySpec

    folders = [s.path for s in config.hydra.runtime.config_sources if s.provider == "command-line"]
    spec = StudySpec(words, folders, config.hydra.job.config_name, {k: v for k, v in fields.items() if k != "_target_"})
    launcher = Launcher(config, context, drop_sweeps(words))
    command = ["lightexp", "run", *sys.argv[1:]]
    code = _planned(spec) if plan else _searched(spec, command, launcher)
    if code == _INTERRUPTED:
        _explain_untested_front(command, "hydra.sweeper.test=now")
        raise KeyboardInterrupt
    if code:
        raise RunFailed("no trial of the study has succeeded.")


def _explain_untested_front(command: list[str], override: str) -> None:
    """Say which command tests the front of a study that was interrupted."""
    if override not in command:
        command = [*command, override]
    print(f"lightexp: The front is not tested yet. This tests it now: {shlex.join(command)}", file=sys.__stderr__)


def _read(words: list[str]) -> tuple[list[str], list[str], bool]:
    """Overrides, the user's own config folders, and whether only to plan."""
    overrides: list[str] = []
    folders: list[str] = []
    rest = iter(words)
    for word in rest:
        flag, equals, value = word.partition("=")
        if flag == FOLDER:
            folders.append(value if equals else next(rest, ""))
        elif word.startswith("-") and word != PLAN:
            raise BadInput(f"{flag} is not a flag of lightexp search: {suggest_nearest(flag, FLAGS)}")
        elif word != PLAN:
            overrides.append(word)
    return overrides, folders, PLAN in words


def _planned(spec: StudySpec) -> int:
    from lightexp.cli.study_view import StudyView
    from lightexp.runner.progress import SilentReporter
    from lightexp.runner.run import Runner
    from lightexp.search import export_front, layer_names
    from lightexp.search.storage import count_trials

    view = StudyView(spec.objectives)
    spec.check()
    runner = Runner(SilentReporter())
    _data_fits(spec, runner)
    space = _space(spec, layer_names.find_layer_names(spec))
    corners = spec.make_seed_trials(space)
    found = export_front.count_stored_stages(spec, [corner.config for corner in corners], runner)
    tried = [(c.name, list(c.config.pipeline.order), *f) for c, f in zip(corners, found, strict=True)]
    view.plan(spec, space, tried, count_trials(spec.search.storage, spec.folder, spec.name))
    return 0


def _data_fits(spec: StudySpec, runner: Runner) -> Data:
    """The data; what cannot work with it is told before anything is started."""
    _, data = runner.plan(spec.settings)
    if spec.halving:
        spec.halving.check(spec.settings, len(data.train))
    return data


def _space(spec: StudySpec, found: dict[str, list[str]]) -> SearchSpace:
    """The space, as the sampler can work with."""
    from lightexp.search import samplers

    space = spec.make_space(found)
    if spec.search.sampler == "grid":
        samplers.make_sampler(spec, space, 0, {})
    return space


def _searched(spec: StudySpec, command: list[str], launcher: Launcher | None) -> int:
    from lightexp.cli.study_view import StudyView
    from lightexp.runner.progress import SilentReporter
    from lightexp.runner.run import Runner
    from lightexp.search import export_front, layer_names
    from lightexp.search.run_trials import run_trials
    from lightexp.search.study import SearchStudy
    from lightexp.search.study_status import compute_status
    from lightexp.search.study_tracker import StudyTracker

    spec.check()
    with StudyView(spec.objectives) as view:
        runner = Runner(SilentReporter())
        data = _data_fits(spec, runner)
        layers = layer_names.find_layer_names(spec)
        space = _space(spec, layers)
        _check_has_trials(spec)
        study = SearchStudy(spec, space, spec.folder, view.say, spec.compute_identity(space, data.key))
        view.say(f"{spec.name}: {spec.workers} workers of {spec.threads} threads, into {spec.folder}")
        if spec.workers < spec.search.workers:
            view.say("Latency is timed with nothing else computing: one worker, not search.workers.")
        tracker = StudyTracker(study, view.say)
        state, is_interrupted, points = "FAILED", False, list[export_front.TestedPoint]()
        try:
            if spec.search.test != "now":
                is_interrupted = run_trials(study, layers, command, view, tracker, launcher)
            status = compute_status(study.trials, spec.objectives)
            if not is_interrupted:
                view.say("The front is being tested.")
                points = export_front.export_front(study, status, runner, command)
            is_partial = spec.search.test == "now" and len(status.ended) < spec.search.trials
            state = "KILLED" if is_interrupted or is_partial else "FINISHED"
        except KeyboardInterrupt:  # during the test
            state, is_interrupted = "KILLED", True
        finally:
            status = compute_status(study.trials, spec.objectives)
            tracker.end(state, status, points)
    view.front(spec, status, points or export_front.list_front_points(status), tracker.place)
    if is_interrupted:
        return _INTERRUPTED
    return 0 if points or status.done else 1


def _check_has_trials(spec: StudySpec) -> None:
    """Refuse to test the front of a study without trials."""
    from lightexp.search.storage import count_trials

    if spec.search.test == "now" and not count_trials(spec.search.storage, spec.folder, spec.name):
        raise BadInput(
            f"search.test=now tests the front of a study, but '{spec.name}' has no trials yet. "
            "Leave it out to run some, or set search.study=NAME."
        )
