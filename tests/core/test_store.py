"""The store: making and loading entries, quarantine, killed processes, and disk errors."""

from __future__ import annotations

import json
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lightexp.core.store import Store
from lightexp.core.store_entry import MANIFEST, MANIFEST_DIGEST, Entry
from lightexp.core.store_gc import list_items, remove_item, sweep_orphans, verify_item
from lightexp.core.store_index import INDEX
from tests.special_files import SPECIAL_FILES, deadline

KEY = "ab" + "0" * 62


def make(folder: Path) -> dict[str, Any]:
    (folder / "model.tflite").write_bytes(b"weights" * 100)
    (folder / "notes.txt").write_text("none")
    return {"loss": [1.0, 0.5], "pair": (1, 2)}


def fail_if_called(folder: Path) -> dict[str, Any]:
    pytest.fail("the entry was made a second time")


def list_files(root: Path) -> list[str]:
    """Return all files below `root` except locks."""
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file() and p.suffix != ".lock")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_ensure_loads_an_existing_entry(store: Store) -> None:
    assert store.load(KEY) is None
    assert not store.has(KEY)
    assert not store.root.exists()  # `load` and `has` create nothing
    entry, from_store = store.ensure(KEY, "Train train", make)
    assert not from_store
    assert store.has(KEY)
    again, from_store = store.ensure(KEY, "Train train", fail_if_called)
    assert from_store
    assert again == entry == store.load(KEY)
    assert entry.facts == {"loss": [1.0, 0.5], "pair": [1, 2]}  # JSON turns tuples into lists
    assert entry.folder == store.folder(KEY)
    assert (entry.folder / "model.tflite").read_bytes() == b"weights" * 100
    assert json.loads((entry.folder / MANIFEST).read_text())["kind"] == "Train train"


def test_ensure_keeps_keys_separate(store: Store) -> None:
    store.ensure(KEY, "a", make)
    other = "ab" + "1" * 62
    _, from_store = store.ensure(other, "a", make)
    assert not from_store
    assert store.folder(other) != store.folder(KEY)


def truncate_file(folder: Path) -> None:
    (folder / "model.tflite").write_bytes((folder / "model.tflite").read_bytes()[:-1])


def alter_file(folder: Path) -> None:
    content = bytearray((folder / "model.tflite").read_bytes())
    content[5] ^= 1
    (folder / "model.tflite").write_bytes(content)


def replace_key(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, "key": "0" * 64}))


def drop_digest(folder: Path) -> None:
    """Remove the digest of the manifest from the manifest, as if version 0.1 had written it."""
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest["files"][MANIFEST_DIGEST]
    (folder / MANIFEST).write_text(json.dumps(manifest))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "truncated": truncate_file,
    "altered": alter_file,
    "missing": lambda folder: (folder / "notes.txt").unlink(),
    "extra": lambda folder: (folder / "more.bin").write_bytes(b""),
    "folder": lambda folder: (folder / "more").mkdir(),
    "no manifest": lambda folder: (folder / MANIFEST).unlink(),
    "cut manifest": lambda folder: (folder / MANIFEST).write_text('{"key": "ab'),
    "empty manifest": lambda folder: (folder / MANIFEST).write_text(""),
    "other manifest": lambda folder: (folder / MANIFEST).write_text("[1]"),
    "binary manifest": lambda folder: (folder / MANIFEST).write_bytes(b"\xff\xfe\x00"),
    "another's manifest": replace_key,
    "deeply nested manifest": lambda folder: (folder / MANIFEST).write_text("[" * 200_000),
    "digest not listed": drop_digest,
    "no digest": lambda folder: (folder / MANIFEST_DIGEST).unlink(),
    "empty": lambda folder: [p.unlink() for p in folder.iterdir()],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_ensure_quarantines_a_broken_entry(store: Store, damage: str) -> None:
    entry, _ = store.ensure(KEY, "a", make)
    DAMAGES[damage](entry.folder)
    _, from_store = store.ensure(KEY, "a", make)
    assert not from_store
    assert store.load(KEY) is not None
    assert len(list((store.root / "set-aside").iterdir())) == 1
    _, from_store = store.ensure(KEY, "a", fail_if_called)
    assert from_store


@pytest.mark.parametrize("kind", SPECIAL_FILES)
@pytest.mark.parametrize("place", ["manifest", "file", "entry", "prefix", "draft", "lock"])
def test_ensure_replaces_what_is_no_file(store: Store, place: str, kind: str) -> None:
    entry, _ = store.ensure(KEY, "a", make)
    folder = entry.folder
    if place in ("draft", "lock"):
        shutil.rmtree(folder)
    path = {
        "manifest": folder / MANIFEST,
        "file": folder / "model.tflite",
        "entry": folder,
        "prefix": folder.parent,
        "draft": store.root / "drafts" / KEY,
        "lock": store.root / "locks" / f"{KEY}.lock",
    }[place]
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    SPECIAL_FILES[kind](path)
    with deadline():
        for item in list_items(store.root):
            assert verify_item(store, item) == "broken"
        made, from_store = store.ensure(KEY, "a", make)
        assert not from_store
        assert (made.folder / "model.tflite").is_file()
        assert store.ensure(KEY, "a", fail_if_called)[1]
        store.release()
        for item in list_items(store.root):
            assert remove_item(store.root, item)
        sweep_orphans(store.root)
    assert [path.name for path in store.root.rglob("*") if not path.is_dir()] == [INDEX]


def test_ensure_leaves_nothing_after_a_failure(store: Store) -> None:
    def fail(folder: Path) -> dict[str, Any]:
        make(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.ensure(KEY, "a", fail)
    assert list_files(store.root) == []
    _, from_store = store.ensure(KEY, "a", make)
    assert not from_store


MAKE_ENTRIES = """
import sys, time
from pathlib import Path
from lightexp.core.store import Store

root, log, gate = map(Path, sys.argv[1:4])

def make(folder):
    with log.open("a") as file:
        file.write("making\\n")
    (folder / "model.tflite").write_bytes(b"half")
    while not gate.exists():
        time.sleep(0.01)
    (folder / "model.tflite").write_bytes(b"complete" * 20_000)
    return {"by": "worker"}

def wait():
    with log.open("a") as file:
        file.write("waiting\\n")

number = 0
while True:
    key = "ab" + "0" * 58 + f"{number:04d}"
    entry, from_store = Store(root).ensure(key, "a", make, wait)
    assert (entry.folder / "model.tflite").read_bytes() == b"complete" * 20_000
    print("loaded" if from_store else "made", flush=True)
    number += 1
    if len(sys.argv) == 4:
        break
"""


def start_worker(store: Store, log: Path, gate: Path, *endless: str) -> subprocess.Popen[str]:
    """Start a process that makes an entry and finishes it once `gate` exists.

    With `endless`, the process makes one entry after another.
    """
    command = [sys.executable, "-c", MAKE_ENTRIES, str(store.root), str(log), str(gate), *endless]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(log: Path, line: str) -> None:
    """Wait until a line is in the log."""
    end = time.monotonic() + 60
    while not log.exists() or line not in log.read_text():
        assert time.monotonic() < end, f"no '{line}' in a minute"
        time.sleep(0.01)


def test_ensure_takes_over_from_a_killed_process(store: Store, tmp_path: Path) -> None:
    log = tmp_path / "log"
    child = start_worker(store, log, tmp_path / "gate")
    wait_for(log, "making")
    child.send_signal(signal.SIGKILL)
    child.communicate(timeout=30)
    key = "ab" + "0" * 62
    assert not store.has(key)
    assert store.load(key) is None
    entry, from_store = store.ensure(key, "a", make)  # the killed process holds no lock
    assert not from_store
    assert (entry.folder / "model.tflite").read_bytes() == b"weights" * 100
    assert not any("drafts" in name or "set-aside" in name for name in list_files(store.root))


def test_killed_processes_leave_complete_entries(store: Store, tmp_path: Path) -> None:
    rng = random.Random(0)
    previous = -1
    for number in range(6):
        log = tmp_path / f"log{number}"
        child = start_worker(store, log, tmp_path, "endless")
        wait_for(log, "making")  # earlier entries are loaded first
        time.sleep(rng.uniform(0, 0.05))
        deadline = time.monotonic() + 60
        while number == 5 and not any((store.root / "entries").glob("*/*")) and time.monotonic() < deadline:
            time.sleep(0.01)  # on a busy machine, the kills before may all have come too early
        child.kill()
        child.communicate(timeout=30)
        keys = [p.name for p in (store.root / "entries").glob("*/*")]
        assert len(keys) >= previous
        previous = len(keys)
        assert all(store.load(key) for key in keys)
    assert previous > 0
    assert not (store.root / "set-aside").exists()


def test_ensure_makes_a_key_once(store: Store, tmp_path: Path) -> None:
    log = tmp_path / "log"
    gate = tmp_path / "gate"
    first = start_worker(store, log, gate)
    wait_for(log, "making")
    second = start_worker(store, log, gate)
    wait_for(log, "waiting")
    gate.touch()
    printed = [child.communicate(timeout=60) for child in (first, second)]
    assert [out for out, _ in printed] == ["made\n", "loaded\n"], printed
    assert log.read_text() == "making\nwaiting\n"


def test_entry_without_files(store: Store) -> None:
    entry, _ = store.ensure(KEY, "a", lambda folder: {})
    assert list_files(entry.folder) == [MANIFEST_DIGEST, MANIFEST]
    assert isinstance(store.load(KEY), Entry)


def test_check_keeps_an_entry_when_no_file_can_be_opened(store: Store) -> None:
    entry, _ = store.ensure(KEY, "a", make)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            store.check(KEY)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert store.check(KEY) == entry
