"""Make store entries again in worker processes, and compare them with what the store holds.

An entry does not say how it was made; the record of the run that made it, or used it, does.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from lightexp.core import exceptions
from lightexp.core.disk_errors import explain_disk_errors
from lightexp.core.errors import BadInput, LightexpError
from lightexp.core.protocols import STATE_FILE
from lightexp.core.record import Record
from lightexp.core.store import DRAFTS, Store, make_lock, remove_path
from lightexp.core.store_entry import OWN_FILES, Entry, entry_lock
from lightexp.core.training import Rung
from lightexp.execution.process import ParentConnection, WorkerDied, WorkerProcess
from lightexp.runner.compose import add_config_dirs
from lightexp.runner.environment import read_processor
from lightexp.runner.execute import STOPPED_FACT, Executor
from lightexp.runner.plan import list_nodes
from lightexp.runner.progress import SilentReporter
from lightexp.runner.run import Runner
from lightexp.runner.settings import Settings, read_settings
from lightexp.stages.train import TrainingStage

_TIMES = "seconds"
"""Name of the facts and arrays that differ from one time to the next: how long each epoch took."""
_SHOWN_FACTS = 5
"""Number of differing facts of an entry that are shown."""


@dataclass(frozen=True)
class Recipe:
    """How an entry can be made again.

    Attributes:
        key: Its store key.
        config: The config of a run that names it.
        folder: The folder in which that run was started, to which its paths are relative.
        threads: The number of threads with which that run computed.
        stop: The epoch after which that run's training stopped early; None if it did not.
    """

    key: str
    config: dict[str, Any]
    folder: str
    threads: int
    stop: int | None


@dataclass(frozen=True)
class EntryDifference:
    """What differs between an entry and the same entry made again: a file or a fact.

    Attributes:
        what: Name of the file, or path of the fact.
        stored: What the store holds.
        again: What making it again gave.
    """

    what: str
    stored: str
    again: str


@dataclass(frozen=True)
class Recomputation:
    """The result of making an entry again.

    Attributes:
        key: Its store key.
        differences: What differs.
        failure: Why it could not be made again; None if it could.
    """

    key: str
    differences: tuple[EntryDifference, ...] = ()
    failure: str | None = None


def find_recipes(
    keys: Iterable[str], records: list[Record], plugins: Iterable[str]
) -> tuple[list[Recipe], dict[str, str]]:
    """Find out how each entry can be made again.

    The record of the run that made it counts, or else of the first one that used it.

    Args:
        keys: Store keys.
        records: All records, of runs and of trials.
        plugins: The user's packages whose code may run. What a record names is not enough: it may be somebody else's.

    Returns:
        The recipes, and for each other key the reason why there is none.
    """
    named: dict[str, list[tuple[bool, float, Record]]] = {}
    for record in records:
        made = {stage.key for stage in record.stages if not stage.from_store}
        for key in record.entry_keys:
            named.setdefault(key, []).append((key not in made, record.started, record))
    recipes, reasons = [], {}
    for key in keys:
        if key not in named:
            reasons[key] = "no record names it"
            continue
        record = min(named[key], key=lambda candidate: candidate[:2])[2]
        other_plugins = sorted({*record.config.get("plugins", [])} - {*plugins})
        if record.environment.get("processor") != read_processor():
            reasons[key] = "made on another kind of processor, which may compute other bytes"
        elif other_plugins:
            reasons[key] = f"made by code that runs only if you name it, by plugins=[{','.join(other_plugins)}]"
        else:
            stops = [stage.facts[STOPPED_FACT] for stage in record.stages if STOPPED_FACT in stage.facts]
            folder, threads = record.environment.get("folder", ""), record.environment.get("threads", 1)
            recipes.append(Recipe(key, record.config, folder, threads, stops[0] if stops else None))
    return recipes, reasons


def recompute_entries(root: Path, recipes: Iterable[Recipe], config_dirs: Iterable[str]) -> Iterator[Recomputation]:
    """Make entries again, one after another, in a worker process for each number of threads.

    Args:
        root: The store's folder, absolute.
        recipes: How to make them.
        config_dirs: The user's own config folders.
    """
    ordered = sorted(recipes, key=lambda recipe: (recipe.threads, recipe.folder, recipe.key))
    for _, group in groupby(ordered, lambda recipe: recipe.threads):
        worker: WorkerProcess | None = None
        try:
            for recipe in group:
                if worker is None or not worker.is_running:
                    worker = WorkerProcess(__name__, str(root), *config_dirs)
                yield _call_worker(root, worker, recipe)
        finally:
            if worker:
                _end_worker(root, worker)


def _end_worker(root: Path, worker: WorkerProcess) -> None:
    """End a worker, in the middle of its work too, and remove what it leaves."""
    worker.close(grace=0)
    remove_path(_get_scratch_folder(root, worker.pid))


def _get_scratch_folder(root: Path, pid: int) -> Path:
    """Return the folder in which a worker makes entries: one of drafts, which `lightexp store gc` removes as well."""
    return root / DRAFTS / f"again-{pid}"


def _call_worker(root: Path, worker: WorkerProcess, recipe: Recipe) -> Recomputation:
    try:
        reply = worker.call(asdict(recipe)).content
    except WorkerDied as error:
        _end_worker(root, worker)
        return Recomputation(recipe.key, failure=f"the process that made it has ended ({error.cause})")
    differences = tuple(EntryDifference(**difference) for difference in reply.get("differences", []))
    return Recomputation(recipe.key, differences, reply.get("failure"))


def recompute(root: Path, recipe: Recipe, runner: Runner) -> list[EntryDifference]:
    """Make an entry again and compare; what it depends on is taken from the store.

    Args:
        root: The store's folder, absolute.
        recipe: How to make it.
        runner: Plans the run, and keeps the data that it has loaded.

    Raises:
        LightexpError: If it cannot be made again.
    """
    scratch = _get_scratch_folder(root, os.getpid())
    with explain_disk_errors(root), make_lock(root, scratch.name) as lock:
        scratch.mkdir(parents=True)
        try:
            return list(_recompute_in(scratch, Store(root), recipe, runner))
        finally:
            remove_path(scratch)
            Path(lock.lock_file).unlink(missing_ok=True)


def _recompute_in(scratch: Path, store: Store, recipe: Recipe, runner: Runner) -> Iterator[EntryDifference]:
    settings = _read_settings(recipe, scratch, runner)
    plan, data = runner.plan(settings)
    node = next((node for node in list_nodes(plan.nodes) if node.key == recipe.key), None)
    if node is None:
        raise BadInput("its run gives other keys today: a library, the code of a stage or the data has changed")
    stored, again = Store(scratch / "stored"), Store(scratch / "again")
    _copy_entry(node.key, store, stored)
    if (first := stored.check(node.key)) is None:
        raise BadInput("it has been removed meanwhile")
    for needed in list_nodes(node.inputs.values()):
        _copy_entry(needed.key, store, again)
    Executor(replace(plan, nodes=(node,)), settings, data, again, SilentReporter()).make()
    second = again.check(node.key)
    assert second is not None
    yield from compare_entries(first, second)


def _read_settings(recipe: Recipe, outputs: Path, runner: Runner) -> Settings:
    """Return the settings of a recipe's run, with other outputs.

    Raises:
        BadInput: If they are wrong today.
    """
    with suppress(OSError):  # the folder may be gone, and matters to relative paths alone
        os.chdir(recipe.folder)
    config = OmegaConf.create(recipe.config)
    OmegaConf.update(config, "paths.outputs", str(outputs))
    settings = replace(read_settings(config), threads=recipe.threads)
    stage = settings.stages[settings.fidelity] if recipe.stop and settings.fidelity else None
    if not recipe.stop or not isinstance(stage, TrainingStage):
        return settings
    scheduled = stage.schedule_epochs(len(runner.plan(settings)[1].train))
    return replace(settings, rung=Rung(0, (recipe.stop - scheduled,)))


def _copy_entry(key: str, source: Store, target: Store) -> None:
    """Copy an entry if it exists and has not been copied yet; it is neither held nor marked as used."""
    folder = source.folder(key)
    with entry_lock(folder, fcntl.LOCK_SH):
        if not target.has(key) and source.check(key):
            shutil.copytree(folder, target.folder(key))


def compare_entries(stored: Entry, again: Entry) -> Iterator[EntryDifference]:
    """Yield what differs between two entries, but for the times that they took."""
    files, files_again = _read_files(stored.folder), _read_files(again.folder)
    for name in sorted({*files, *files_again}):
        first, second = files.get(name), files_again.get(name)
        if first is None or second is None:
            yield EntryDifference(name, *("missing" if c is None else f"{len(c):,} bytes" for c in (first, second)))
        elif first != second:
            position = next((n for n, pair in enumerate(zip(first, second, strict=False)) if pair[0] != pair[1]), None)
            place = "equal up to the end of the shorter" if position is None else f"other from byte {position:,}"
            yield EntryDifference(name, f"{len(first):,} bytes", f"{len(second):,} bytes, {place}")
    yield from list(_compare_facts("facts", stored.facts, again.facts))[:_SHOWN_FACTS]


def _read_files(folder: Path) -> dict[str, bytes]:
    """Return the content of each file of an entry; of a training's state, of each array but the times."""
    contents: dict[str, bytes] = {}
    for path in folder.iterdir():
        if path.name == STATE_FILE:
            with zipfile.ZipFile(path) as archive:
                names = [name for name in archive.namelist() if not name.endswith(f"{_TIMES}.npy")]
                contents |= {f"{STATE_FILE}/{name}": archive.read(name) for name in names}
        elif path.name not in OWN_FILES:
            contents[path.name] = path.read_bytes()
    return contents


def _compare_facts(place: str, stored: Any, again: Any) -> Iterator[EntryDifference]:
    if isinstance(stored, dict) and isinstance(again, dict):
        for name in sorted({*stored, *again} - {_TIMES}):
            yield from _compare_facts(f"{place}.{name}", stored.get(name), again.get(name))
    elif isinstance(stored, list) and isinstance(again, list) and len(stored) == len(again):
        for number, (first, second) in enumerate(zip(stored, again, strict=True)):
            yield from _compare_facts(f"{place}.{number}", first, second)
    elif repr(stored) != repr(again):  # by which NaN equals NaN
        yield EntryDifference(place, repr(stored), repr(again))


def main() -> None:
    """Make the entries that the parent asks for, until it has gone."""
    parent = ParentConnection()
    root, *config_dirs = sys.argv[1:]
    if config_dirs:
        add_config_dirs(config_dirs)
    runners: dict[str, Runner] = {}  # of one folder at most: the same path is other data in another folder
    while (request := parent.receive()) is not None:
        recipe = Recipe(**request.content)
        runners = {recipe.folder: runners.get(recipe.folder) or Runner(SilentReporter())}
        try:
            differences = recompute(Path(root), recipe, runners[recipe.folder])
            parent.reply({"differences": [asdict(difference) for difference in differences]})
        except LightexpError as error:
            parent.reply({"failure": str(error)})
        except Exception as error:  # a plugin's code or a library may raise anything
            parent.reply({"failure": str(exceptions.summarize_exception(error, recipe.config["plugins"]))})


if __name__ == "__main__":
    main()
