"""`lightexp doctor`: check whether this machine can run a job: versions, memory, disk, store, plugins and data sets."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from lightexp.cli.arguments import Arguments
from lightexp.cli.printing import make_console, print_line
from lightexp.core.errors import BadInput, LightexpError
from lightexp.core.formatting import format_bytes, format_duration
from lightexp.core.json_text import encode_json
from lightexp.execution.process import WorkerProcess
from lightexp.execution.supervisor import SIGNALLED

if TYPE_CHECKING:
    from lightexp.runner.settings import Settings

State = Literal["ok", "note", "bad"]

_HELP = """Check whether this machine can run `lightexp run` with the same settings, and what prevents it.

  lightexp doctor                                                the default job
  lightexp doctor dataset=cifar10 paths.outputs=/data/outputs    another data set, another place
  lightexp doctor store.remote=s3://BUCKET/PREFIX                and whether the remote store can be read and written
  lightexp doctor 'plugins=[mypackage]'                          and whether your package can be imported
  lightexp doctor --json                                         for scripts: {"fit": ..., "checks": [...]}

Exit codes: 0 it can, 1 it cannot, 2 bad input."""

_IMPORTS = """
from lightexp.backend import session
session.import_tfmot()  # as a run does: after TensorFlow, and in half of the time that all it can import takes
import ai_edge_litert.interpreter, litert_quantizer
"""
_IMPORT_TIMEOUT_S = 300  # a busy machine takes long
_LITTLE_MEMORY, _LITTLE_DISK, _NO_DISK = 2e9, 2e9, 50e6  # bytes
_CLOCK_TOLERANCE_S = 60.0
_ABSENT = "not installed"
_STATE_STYLES = {"ok": "green", "note": "yellow", "bad": "red"}


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Attributes:
        topic: What it belongs to, such as `data sets`.
        name: What was checked.
        state: `ok`; `note`, worth knowing; or `bad`: the job could not run.
        message: What was found, and what to do about it.
    """

    topic: str
    name: str
    state: State
    message: str


def make_parser() -> Arguments:
    """Make the parser of `lightexp doctor`."""
    usage = "%(prog)s [--json] [--config-dir DIR] [setting=value ...]"
    parser = Arguments("doctor", usage=usage, description=_HELP).add_config_dir()
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def run(argv: list[str]) -> int:
    """Run `lightexp doctor` and return the exit code."""
    options, overrides = make_parser().read(argv)
    checks = [*check_versions()]
    is_complete = not any(check.message.startswith(_ABSENT) for check in checks)
    if is_complete:  # without some library the rest cannot be checked
        from lightexp.runner.compose import compose_config

        config = compose_config(overrides)  # a misspelt setting is bad input, as it is for a run
        checks += [*check_libraries(), *check_job(overrides, config)]
    fit = all(check.state != "bad" for check in checks)
    if options.json:
        print_line(
            encode_json({"fit": fit, "checks": [asdict(check) for check in checks]}, indent=1, ensure_ascii=False)
        )
    elif is_complete:
        _print_table(checks, fit)
    else:
        print_line("\n".join(f"{check.name}: {check.message}" for check in checks if check.state == "bad"))
    return 0 if fit else 1


def _print_table(checks: list[Check], fit: bool) -> None:
    from lightexp.cli.terminal import choose_width
    from lightexp.report.table import Table, TableCell, TableColumn, TableRow, build_rich_table, print_whole_words

    rows = []
    previous = ""
    for check in checks:
        topic = check.topic if check.topic != previous else ""
        state = TableCell(check.state, style=_STATE_STYLES[check.state])
        rows.append(TableRow((TableCell(topic), TableCell(check.name), state, TableCell(check.message))))
        previous = check.topic
    columns = tuple(TableColumn(heading, align="left") for heading in ("", "What", "", "Found"))
    console = make_console(width=choose_width(sys.stdout))
    print_whole_words(console, build_rich_table(Table(columns, tuple(rows))))
    console.print("This machine can run it." if fit else "It cannot run here: see what is bad.")


def check_versions() -> Iterator[Check]:
    """Compare Python and each library with the versions that lightexp's tests have seen."""
    own = metadata.metadata("lightexp")
    python = ".".join(str(part) for part in sys.version_info[:3])
    versions: list[tuple[str, SpecifierSet, str | None]] = [("python", SpecifierSet(own["Requires-Python"]), python)]
    for line in metadata.requires("lightexp") or []:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            versions.append((requirement.name, requirement.specifier, _find_version(requirement.name)))
    for name, allowed, installed in versions:
        if installed is None:
            yield Check("versions", name, "bad", f"{_ABSENT}: pip install '{name}{allowed}'")
        elif not allowed.contains(installed, prereleases=True):
            yield Check("versions", name, "bad", f"{installed}, not {allowed}: pip install '{name}{allowed}'")
        else:
            yield Check("versions", name, "ok", f"{installed} ({allowed})")


def _find_version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def check_libraries() -> Iterator[Check]:
    """Check that TensorFlow and the others can be imported, in another process, which dies of it on some processors."""
    command = [sys.executable, "-P", "-c", _IMPORTS]
    with tempfile.TemporaryFile() as errors:
        process = WorkerProcess("lightexp.execution.supervisor", *command, stderr=errors)
        try:
            code = process.wait(_IMPORT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            yield Check("libraries", "import", "bad", f"not done after {_IMPORT_TIMEOUT_S} s. Try it again.")
            return
        finally:
            process.close(0)
        errors.seek(0)
        lines = errors.read().decode(errors="replace").strip().splitlines()
    if code == 0:
        yield Check("libraries", "import", "ok", "TensorFlow, LiteRT and their like can be imported")
        return
    lines = lines or [f"the process died of signal {code - SIGNALLED}"]
    yield Check("libraries", "import", "bad", f"{lines[-1]}. Install lightexp again in a new environment.")


def check_job(overrides: list[str], config: Any) -> Iterator[Check]:
    """Check what a job needs of this machine.

    Args:
        overrides: The job's settings.
        config: The config that is composed from them.
    """
    from lightexp.runner.compose import compose_settings
    from lightexp.runner.order import check_order

    yield _check_threads(config.runtime.get("threads"))
    yield _check_memory()
    try:
        settings = compose_settings(overrides)
        check_order(settings)
    except BadInput as error:  # such as an outputs folder that cannot be written
        yield Check("job", "settings", "bad", str(error))
    else:
        yield Check("job", "settings", "ok", settings.name)
        yield from _check_outputs(settings.outputs)
        yield _check_store(settings.outputs)
        if settings.remote_store is not None:
            yield _check_remote_store(settings)
        yield _check_records(settings.outputs)
        yield _check_tracking(settings.tracking, settings.outputs)
        yield _check_dataset("dataset of the job", settings.dataset, needed=True)
    yield from _check_plugins(list(config.plugins))
    yield from _check_shipped_datasets()


def _check_threads(configured: Any) -> Check:
    cores = len(os.sched_getaffinity(0))
    threads = configured or cores
    text = f"{threads} compute, of {cores} cores"
    if isinstance(threads, int) and threads > cores:
        return Check("machine", "threads", "note", f"{text}: runtime.threads={cores} would be faster")
    return Check("machine", "threads", "ok", text)


def _check_memory() -> Check:
    lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    kibibytes = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    available = kibibytes["MemAvailable"] * 1024
    text = f"{format_bytes(available)} of {format_bytes(kibibytes['MemTotal'] * 1024)} are free"
    if available < _LITTLE_MEMORY:
        return Check("machine", "memory", "note", f"{text}: little for TensorFlow")
    return Check("machine", "memory", "ok", text)


def _check_outputs(outputs: Path) -> Iterator[Check]:
    existing = next(folder for folder in (outputs, *outputs.parents) if folder.is_dir())
    try:
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(b"lightexp")
    except OSError as error:
        yield Check("outputs", "writable", "bad", f"{existing}: {error.strerror}. Set paths.outputs=FOLDER.")
    else:
        text = str(outputs) if existing == outputs else f"{outputs}, which will be created"
        yield Check("outputs", "writable", "ok", text)
    free = shutil.disk_usage(existing).free
    text = f"{format_bytes(free)} are free"
    if free >= _LITTLE_DISK:
        yield Check("outputs", "disk", "ok", text)
    else:
        state: State = "bad" if free < _NO_DISK else "note"
        advice = "make room (lightexp store gc), or set paths.outputs=FOLDER"
        yield Check("outputs", "disk", state, f"{text}: {advice}")


def _check_store(outputs: Path) -> Check:
    from lightexp.core.store_gc import UNREADABLE, list_items, sweep_orphans

    items = list_items(outputs / "store", check_use=False)
    entries = [item for item in items if item.state != "quarantined"]
    text = f"{len(entries)} entries, {format_bytes(sum(item.bytes for item in items))}"
    counts = {
        "cannot be read (lightexp store verify)": sum(item.kind == UNREADABLE for item in entries),
        "quarantined as broken": len(items) - len(entries),
        "half-made or half-removed by killed processes (lightexp store gc clears them)": sweep_orphans(
            outputs / "store", dry=True
        ),
    }
    problems = [f"{count} {problem}" for problem, count in counts.items() if count]
    return Check("outputs", "store", "note" if problems else "ok", "; ".join([text, *problems]))


def _check_remote_store(settings: Settings) -> Check:
    from lightexp.cli.store_remote import open_remote
    from lightexp.core.object_storage import StorageUnavailable
    from lightexp.core.remote_gc import read_storage_clock

    try:
        remote = open_remote(settings)
    except StorageUnavailable as error:
        return Check("outputs", "remote store", "note", f"{error} Runs go on without it.")
    except BadInput as error:
        return Check("outputs", "remote store", "bad", str(error))
    try:
        storage_time = read_storage_clock(remote)
    except LightexpError as error:
        return Check("outputs", "remote store", "note", f"it can be read, but not written: {error}")
    seconds = 0.0 if storage_time is None else abs(time.time() - storage_time)
    if seconds > _CLOCK_TOLERANCE_S:
        text = f"{remote.url}: this host's clock differs by {format_duration(seconds)}; S3 allows 15 min"
        return Check("outputs", "remote store", "note", text)
    return Check("outputs", "remote store", "ok", f"{remote.url} can be read and written")


def _check_records(outputs: Path) -> Check:
    from lightexp.core.record import read_record
    from lightexp.core.records import list_run_folders

    try:
        folders = list_run_folders(outputs) if outputs.is_dir() else []
    except BadInput as error:
        return Check("outputs", "runs", "note", str(error))
    complaints = []
    for folder in folders:  # no record is kept: ten thousand need 300 MB
        try:
            read_record(folder)
        except BadInput as error:
            complaints.append(str(error))
    text = "; ".join([f"{len(folders) - len(complaints)} records", *complaints[:1]])
    if len(complaints) > 1:
        text += f" {len(complaints) - 1} more cannot be read."
    return Check("outputs", "runs", "note" if complaints else "ok", text)


def _check_tracking(tracking: Any, outputs: Path) -> Check:
    from lightexp.datasets.fetch import is_reachable
    from lightexp.tracking import stores
    from lightexp.tracking.mlflow import Mlflow, find_server_problem

    if not isinstance(tracking, Mlflow):
        return Check("outputs", "tracking", "ok", type(tracking).__name__)
    uri = stores.resolve_uri(tracking.uri, outputs)
    if uri.startswith("http"):
        problem = find_server_problem(uri, tracking) if is_reachable(uri) else "it does not answer"
        if problem:
            text = f"{uri}: {problem}. Runs go on without it, and 'lightexp track sync' uploads them later"
            return Check("outputs", "tracking", "note", text)
    return Check("outputs", "tracking", "ok", uri)


def _check_plugins(packages: list[str]) -> Iterator[Check]:
    """Check the packages that the user names, and list others that build on lightexp."""
    for package in packages:
        try:
            file = import_module(package).__file__
            yield Check("plugins", package, "ok", f"can be imported from {file}")
        except (Exception, SystemExit) as error:  # a user's module may raise anything while it is imported
            text = f"{type(error).__name__}: {error}. Install it, or put the folder that holds it on PYTHONPATH."
            yield Check("plugins", package, "bad", text)
    for distribution in metadata.distributions():
        if any(re.match(r"lightexp(?![\w.-])", line) for line in distribution.requires or []):
            text = f"{distribution.version} builds on lightexp; plugins=[PACKAGE] allows it"
            yield Check("plugins", distribution.name, "ok", text)


def _check_shipped_datasets() -> Iterator[Check]:
    """Check the data sets that lightexp has configs for."""
    from omegaconf import OmegaConf

    from lightexp.core.config import build
    from lightexp.core.protocols import Dataset
    from lightexp.runner.compose import compose_config
    from lightexp.runner.config_dir import find_config_dir

    for path in sorted((find_config_dir() / "dataset").glob("[!_]*.yaml")):
        node = OmegaConf.to_container(compose_config([f"dataset={path.stem}"]).dataset, resolve=True)
        dataset: Any = build(node, Dataset, "dataset")  # type: ignore[type-abstract]
        yield _check_dataset(path.stem, dataset, needed=False)


def _check_dataset(name: str, dataset: Any, needed: bool) -> Check:
    try:
        location = dataset.check()
    except LightexpError as error:
        return Check("data sets", name, "bad" if needed else "note", str(error))
    text = str(location) if location else "not here yet: it is downloaded or made at its first use"
    return Check("data sets", name, "ok", text)
