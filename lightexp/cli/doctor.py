"""`lightexp doctor`: whether this machine can run the main job."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from lightexp.cli.arguments import Arguments
from lightexp.core.errors import BadInput, LightexpError
from lightexp.core.formatting import format_bytes

_HELP = """Looks whether this machine can run `lightexp run` with the same words, and what stands in the way.

  lightexp doctor                                                the main job as it is shipped
  lightexp doctor dataset=cifar10 paths.outputs=/data/outputs    another data set, another place
  lightexp doctor 'plugins=[mypackage]'                          and whether your package can be imported
  lightexp doctor --json                                         for scripts: {"fit": ..., "checks": [...]}

Exit codes: 0 it can, 1 it cannot, 2 bad input."""

_LIBRARIES = (
    "lightexp, tensorflow, tf_keras, tensorflow_model_optimization, ai_edge_litert.interpreter, litert_quantizer"
)
_PATIENCE = 300  # seconds for a busy machine to import them in
_LITTLE_MEMORY, _LITTLE_DISK, _NO_DISK = 2e9, 2e9, 50e6  # bytes
_ABSENT = "not installed"
_STATE_STYLES = {"ok": "green", "note": "yellow", "bad": "red"}


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        topic: What it belongs to, such as `dataset`.
        name: What it is.
        state: `ok`; `note`, worth knowing; or `bad`: the main job could not run.
        words: What was found, and what to do about it.
    """

    topic: str
    name: str
    state: Literal["ok", "note", "bad"]
    words: str


def make_parser() -> Arguments:
    """The command's flags."""
    made = Arguments("doctor", description=_HELP).add_config_dir()
    made.add_argument("--json", action="store_true", help="prints JSON")
    return made


def run(words: list[str]) -> int:
    """Runs `lightexp doctor` and returns the exit code."""
    flags, overrides = make_parser().read(words)
    checks = [*versions()]
    whole = not any(check.words.startswith(_ABSENT) for check in checks)
    if whole:  # else the rest cannot even be looked at
        from lightexp.runner.compose import compose_config

        config = compose_config(overrides)  # a wrong word is bad input, as it is for a run
        checks += [*libraries(), *job(overrides, config)]
    fit = all(check.state != "bad" for check in checks)
    if flags.json:
        print(json.dumps({"fit": fit, "checks": [asdict(check) for check in checks]}, indent=1, ensure_ascii=False))
    elif whole:
        _show(checks, fit)
    else:
        print("\n".join(f"{check.name}: {check.words}" for check in checks if check.state == "bad"))
    return 0 if fit else 1


def _show(checks: list[Check], fit: bool) -> None:
    from rich.console import Console

    from lightexp.cli.terminal import width
    from lightexp.report.table import Table, TableCell, TableColumn, TableRow, build_rich_table

    rows = []
    previous = ""
    for check in checks:
        topic = check.topic if check.topic != previous else ""
        state = TableCell(check.state, style=_STATE_STYLES[check.state])
        rows.append(TableRow((TableCell(topic), TableCell(check.name), state, TableCell(check.words))))
        previous = check.topic
    columns = tuple(TableColumn(heading, align="left") for heading in ("", "What", "", "Found"))
    console = Console(width=width(sys.stdout), highlight=False)
    console.print(build_rich_table(Table(columns, tuple(rows))))
    console.print("This machine can run it." if fit else "It cannot run here: see what is bad.")


def versions() -> Iterator[Check]:
    """Python and each library, held against the ranges that lightexp's tests have seen."""
    here = metadata.metadata("lightexp")
    wanted = [Requirement(line) for line in metadata.requires("lightexp") or []]
    pairs: list[tuple[str, SpecifierSet, str | None]] = [
        ("python", SpecifierSet(here["Requires-Python"]), ".".join(map(str, sys.version_info[:3])))
    ]
    for need in wanted:
        if need.marker is None or need.marker.evaluate({"extra": ""}):
            pairs.append((need.name, need.specifier, _version(need.name)))
    for name, allowed, found in pairs:
        if found is None:
            yield Check("versions", name, "bad", f"{_ABSENT}: pip install '{name}{allowed}'")
        elif not allowed.contains(found, prereleases=True):
            yield Check("versions", name, "bad", f"{found}, not {allowed}: pip install '{name}{allowed}'")
        else:
            yield Check("versions", name, "ok", f"{found} ({allowed})")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def libraries() -> Iterator[Check]:
    """Whether TensorFlow and the others can be imported, in a process of its own: on some processors that dies."""
    words = [sys.executable, "-P", "-c", f"import {_LIBRARIES}"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, errors="replace", timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        yield Check("libraries", "import", "bad", f"not done after {_PATIENCE} s")
        return
    if done.returncode == 0:
        yield Check("libraries", "import", "ok", "TensorFlow, LiteRT and their like can be imported")
        return
    lines = done.stderr.strip().splitlines() or [f"the process died of signal {-done.returncode}"]
    yield Check("libraries", "import", "bad", f"{lines[-1]}. Install lightexp again in a new environment.")


def job(overrides: list[str], config: Any) -> Iterator[Check]:
    """What the main job needs of this machine, with these overrides."""
    from lightexp.runner.compose import compose_settings
    from lightexp.runner.order import check_order

    cores = len(os.sched_getaffinity(0))
    threads = config.runtime.get("threads") or cores
    more = isinstance(threads, int) and threads > cores
    words = f"{threads} compute, of {cores} cores" + (f": runtime.threads={cores} would be faster" if more else "")
    yield Check("machine", "threads", "note" if more else "ok", words)
    yield _memory()
    try:
        chosen = compose_settings(overrides)
        check_order(chosen)
    except BadInput as error:  # such as a folder of outputs that cannot be written
        yield Check("job", "settings", "bad", str(error))
    else:
        yield Check("job", "settings", "ok", chosen.name)
        yield from _outputs(chosen.outputs)
        yield from _store(chosen.outputs)
        yield _tracking(chosen.tracking, chosen.outputs)
        yield _dataset("dataset of the job", chosen.dataset, needed=True)
    yield from _plugins(list(config.plugins))
    yield from _shipped()


def _memory() -> Check:
    free = {line.split(":")[0]: line.split()[1] for line in Path("/proc/meminfo").read_text().splitlines()}
    available = int(free["MemAvailable"]) * 1024
    little = available < _LITTLE_MEMORY
    words = f"{format_bytes(available)} of {format_bytes(int(free['MemTotal']) * 1024)} are free"
    return Check("machine", "memory", "note" if little else "ok", words + (": little for TensorFlow" if little else ""))


def _outputs(outputs: Path) -> Iterator[Check]:
    there = next(place for place in (outputs, *outputs.parents) if place.is_dir())
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"lightexp")
    except OSError as error:
        yield Check("outputs", "writable", "bad", f"{there}: {error.strerror}. Set paths.outputs=FOLDER.")
    else:
        yield Check("outputs", "writable", "ok", f"{outputs}" + ("" if there == outputs else ", which is to be made"))
    free = shutil.disk_usage(there).free
    state: Literal["ok", "note", "bad"] = "bad" if free < _NO_DISK else "note" if free < _LITTLE_DISK else "ok"
    more = "" if state == "ok" else ": make room (lightexp store gc), or set paths.outputs=FOLDER"
    yield Check("outputs", "disk", state, f"{format_bytes(free)} are free{more}")


def _store(outputs: Path) -> Iterator[Check]:
    from lightexp.core.records import load_records
    from lightexp.core.store_gc import list_items, sweep_orphans

    there = list_items(outputs / "store")
    entries = [item for item in there if item.state != "set aside"]
    words = f"{len(entries)} entries, {format_bytes(sum(item.bytes for item in there))}"
    strange = {
        "cannot be read (lightexp store verify)": sum(item.kind == "?" for item in entries),
        "set aside as broken": len(there) - len(entries),
        "half-made or half-removed by killed processes (lightexp store gc clears them)": sweep_orphans(
            outputs / "store", dry=True
        ),
    }
    told = [f"{count} {what}" for what, count in strange.items() if count]
    yield Check("outputs", "store", "note" if told else "ok", "; ".join([words, *told]))
    records, unsound = load_records(outputs) if outputs.is_dir() else ([], [])
    words = f"{len(records)} records" + "".join(f"; {line}" for line in unsound[:1])
    yield Check("outputs", "runs", "note" if unsound else "ok", words)


def _tracking(tracking: Any, outputs: Path) -> Check:
    from lightexp.datasets.fetch import is_reachable
    from lightexp.tracking import stores
    from lightexp.tracking.mlflow import Mlflow

    if not isinstance(tracking, Mlflow):
        return Check("outputs", "tracking", "ok", type(tracking).__name__)
    uri = stores.resolve_uri(tracking.uri, outputs)
    if uri.startswith("http") and not is_reachable(uri):
        return Check(
            "outputs", "tracking", "note", f"{uri} does not answer; runs go on, and lightexp track sync makes up"
        )
    return Check("outputs", "tracking", "ok", uri)


def _plugins(named: list[str]) -> Iterator[Check]:
    """The packages that the user names, and others that build on lightexp."""
    for package in named:
        try:
            place = import_module(package).__file__
            yield Check("plugins", package, "ok", f"can be imported from {place}")
        except (Exception, SystemExit) as error:  # whatever a user's module raises while it is imported
            words = f"{type(error).__name__}: {error}. Install it, or put the folder that holds it on PYTHONPATH."
            yield Check("plugins", package, "bad", words)
    for one in metadata.distributions():
        if any(re.match(r"lightexp(?![\w.-])", line) for line in one.requires or []):
            yield Check("plugins", one.name, "ok", f"{one.version} builds on lightexp; plugins=[PACKAGE] allows it")


def _shipped() -> Iterator[Check]:
    """The data sets that lightexp ships configs for."""
    from omegaconf import OmegaConf

    from lightexp.core.config import build
    from lightexp.core.protocols import Dataset
    from lightexp.runner.compose import compose_config
    from lightexp.runner.config_dir import find_config_dir

    for path in sorted((find_config_dir() / "dataset").glob("[!_]*.yaml")):
        node = OmegaConf.to_container(compose_config([f"dataset={path.stem}"]).dataset, resolve=True)
        dataset: Any = build(node, Dataset, "dataset")  # type: ignore[type-abstract]
        yield _dataset(path.stem, dataset, needed=False)


def _dataset(name: str, dataset: Any, needed: bool) -> Check:
    try:
        place = dataset.check()
    except LightexpError as error:
        return Check("data sets", name, "bad" if needed else "note", str(error))
    return Check(
        "data sets", name, "ok", str(place) if place else "not here yet: it is fetched or made at its first use"
    )
