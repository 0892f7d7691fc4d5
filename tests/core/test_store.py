from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lightexp.core.errors import RunFailed
from lightexp.core.store import MANIFEST, Entry, Store
from tests.system_packages import require_program

KEY = "ab" + "0" * 62


def make(folder: Path) -> dict[str, Any]:
    (folder / "model.tflite").write_bytes(b"weights" * 100)
    (folder / "notes.txt").write_text("none")
    return {"loss": [1.0, 0.5], "pair": (1, 2)}


def never(folder: Path) -> dict[str, Any]:
    pytest.fail("it was made a second time")


def files(root: Path) -> list[str]:
    """All files below `root` but locks."""
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file() and p.suffix != ".lock")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_what_is_made_is_found_again(store: Store) -> None:
    assert store.load(KEY) is None
    assert not store.has(KEY)
    assert not store.root.exists()  # looking makes nothing
    made, found = store.ensure(KEY, "Train train", make)
    assert not found
    assert store.has(KEY)
    again, found = store.ensure(KEY, "Train train", never)
    assert found
    assert again == made == store.load(KEY)
    assert made.facts == {"loss": [1.0, 0.5], "pair": [1, 2]}  # as JSON gives them back
    assert made.folder == store.folder(KEY)
    assert (made.folder / "model.tflite").read_bytes() == b"weights" * 100
    assert json.loads((made.folder / MANIFEST).read_text())["kind"] == "Train train"


def test_keys_do_not_share_entries(store: Store) -> None:
    store.ensure(KEY, "a", make)
    other = "ab" + "1" * 62
    _, found = store.ensure(other, "a", make)
    assert not found
    assert store.folder(other) != store.folder(KEY)


def truncate(folder: Path) -> None:
    (folder / "model.tflite").write_bytes((folder / "model.tflite").read_bytes()[:-1])


def alter(folder: Path) -> None:
    content = bytearray((folder / "model.tflite").read_bytes())
    content[5] ^= 1
    (folder / "model.tflite").write_bytes(content)


def swap(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, "key": "0" * 64}))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "truncated": truncate,
    "altered": alter,
    "missing": lambda folder: (folder / "notes.txt").unlink(),
    "extra": lambda folder: (folder / "more.bin").write_bytes(b""),
    "folder": lambda folder: (folder / "more").mkdir(),
    "no manifest": lambda folder: (folder / MANIFEST).unlink(),
    "cut manifest": lambda folder: (folder / MANIFEST).write_text('{"key": "ab'),
    "empty manifest": lambda folder: (folder / MANIFEST).write_text(""),
    "other manifest": lambda folder: (folder / MANIFEST).write_text("[1]"),
    "binary manifest": lambda folder: (folder / MANIFEST).write_bytes(b"\xff\xfe\x00"),
    "another's manifest": swap,
    "empty": lambda folder: [p.unlink() for p in folder.iterdir()],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_broken_entry_is_set_aside_and_made_again(store: Store, damage: str) -> None:
    made, _ = store.ensure(KEY, "a", make)
    DAMAGE[damage](made.folder)
    _, found = store.ensure(KEY, "a", make)
    assert not found
    assert store.load(KEY) is not None
    assert len(list((store.root / "set-aside").iterdir())) == 1
    _, found = store.ensure(KEY, "a", never)
    assert found


def test_a_maker_that_fails_leaves_nothing(store: Store) -> None:
    def fail(folder: Path) -> dict[str, Any]:
        make(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.ensure(KEY, "a", fail)
    assert files(store.root) == []
    _, found = store.ensure(KEY, "a", make)
    assert not found


WORKER = """
import sys, time
from pathlib import Path
from lightexp.core.store import Store

root, log, prefix, seconds = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], float(sys.argv[4])

def make(folder):
    with log.open("a") as file:
        file.write("making\\n")
    (folder / "model.tflite").write_bytes(b"half")
    time.sleep(seconds)
    (folder / "model.tflite").write_bytes(b"whole" * 20_000)
    return {"by": "worker"}

def wait():
    with log.open("a") as file:
        file.write("waiting\\n")

number = 0
while True:
    key = prefix + "0" * 58 + f"{number:04d}"
    entry, found = Store(root).ensure(key, "a", make, wait)
    assert (entry.folder / "model.tflite").read_bytes() == b"whole" * 20_000
    print("found" if found else "made", flush=True)
    number += 1
    if len(sys.argv) == 5:
        break
"""


def start(store: Store, log: Path, seconds: float, *endless: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", WORKER, str(store.root), str(log), "ab", str(seconds), *endless]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def until(log: Path, words: str) -> None:
    end = time.monotonic() + 60
    while not log.exists() or words not in log.read_text():
        assert time.monotonic() < end, f"no '{words}' in a minute"
        time.sleep(0.01)


def test_a_killed_maker_leaves_the_store_usable(store: Store, tmp_path: Path) -> None:
    log = tmp_path / "log"
    child = start(store, log, 600)
    until(log, "making")
    child.send_signal(signal.SIGKILL)
    child.communicate(timeout=30)
    key = "ab" + "0" * 62
    assert not store.has(key)
    assert store.load(key) is None
    entry, found = store.ensure(key, "a", make)  # its lock died with it
    assert not found
    assert (entry.folder / "model.tflite").read_bytes() == b"weights" * 100
    assert not any("drafts" in name or "set-aside" in name for name in files(store.root))


def test_one_killed_at_any_moment_leaves_whole_entries_only(store: Store, tmp_path: Path) -> None:
    rng = random.Random(0)
    before = -1
    for _ in range(6):
        log = tmp_path / f"log{_}"
        child = start(store, log, 0.0, "endless")
        until(log, "making")  # goes on behind what the ones before it have made
        time.sleep(rng.uniform(0, 0.05))
        child.kill()
        child.communicate(timeout=30)
        keys = [p.name for p in (store.root / "entries").glob("*/*")]
        assert len(keys) >= before
        before = len(keys)
        assert all(store.load(key) for key in keys)
    assert before > 0
    assert not (store.root / "set-aside").exists()


def test_two_processes_make_a_key_once(store: Store, tmp_path: Path) -> None:
    log = tmp_path / "log"
    first = start(store, log, 1.0)
    until(log, "making")
    second = start(store, log, 1.0)
    said = [child.communicate(timeout=60) for child in (first, second)]
    assert [out for out, _ in said] == ["made\n", "found\n"], said
    assert log.read_text() == "making\nwaiting\n"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    require_program("mount")
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_one_clear_line(small_disk: Path) -> None:
    store = Store(small_disk / "store")
    first, _ = store.ensure(KEY, "a", make)

    def large(folder: Path) -> dict[str, Any]:
        (folder / "model.tflite").write_bytes(bytes(2_000_000))
        return {}

    other = "cd" + "0" * 62
    with pytest.raises(RunFailed) as caught:
        store.ensure(other, "a", large)
    assert str(caught.value) == (f"The disk that holds {store.root} is full. Free some space and run the same command.")
    assert not store.has(other)
    assert not any("drafts" in name for name in files(store.root))
    assert store.load(KEY) == first
    _, found = store.ensure(other, "a", make)  # there is space again
    assert not found
    store.release()  # else the disk is in use


def test_a_folder_that_cannot_be_written_is_one_clear_line(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    root = os.geteuid() == 0  # who may write everywhere but on a disk that nobody can
    disk = request.getfixturevalue("small_disk") if root else tmp_path
    store = Store(disk / "store")
    entry, _ = store.ensure(KEY, "a", make)
    broken = "cd" + "0" * 62
    truncate(store.ensure(broken, "a", make)[0].folder)
    if root:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    else:
        for folder in [store.root, *store.root.rglob("*")]:
            folder.chmod(0o500)
    assert store.ensure(KEY, "a", never) == (entry, True)  # reading needs no writing
    for key in ("ef" + "0" * 62, broken):
        with pytest.raises(RunFailed) as caught:
            store.ensure(key, "a", make)
        why = "Read-only file system" if root else "Permission denied"
        assert str(caught.value) == f"{store.root} cannot be written: {why}. Set paths.outputs=FOLDER."
    store.release()  # else the disk is in use


def test_a_folder_that_cannot_be_made_is_one_clear_line() -> None:
    with pytest.raises(RunFailed, match=r"/proc/there cannot be written: .* Set paths.outputs=FOLDER."):
        Store(Path("/proc/there")).ensure(KEY, "a", make)


def test_an_entry_s_files_are_its_own(store: Store) -> None:
    entry, _ = store.ensure(KEY, "a", lambda folder: {})
    assert files(entry.folder) == [MANIFEST]
    assert isinstance(store.load(KEY), Entry)
