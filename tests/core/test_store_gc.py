"""Listing, checking and removing store entries, also while other processes use them."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightexp.core.store import Store
from lightexp.core.store_entry import MANIFEST, entry_lock
from lightexp.core.store_gc import StoreItem, list_items, remove_item, select_evictable, sweep_orphans, verify_item

KEYS = [f"{number:02x}" + "0" * 62 for number in range(8)]


def make(folder: Path) -> dict[str, Any]:
    for name in ("model.tflite", "notes.txt", "weights.npz"):
        (folder / name).write_bytes(b"content" * 10)
    return {}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return the root of a store of three unused entries, made one after another."""
    store = Store(tmp_path / "store")
    for age, key in enumerate(KEYS[:3]):
        entry, _ = store.ensure(key, f"Train {key[:2]}", make)
        os.utime(entry.folder / MANIFEST, (0, 1000 + age))
    store.release()
    return store.root


def list_keys(root: Path) -> list[str]:
    return [item.key for item in list_items(root)]


def test_list_items_starts_with_the_least_recently_used(root: Path) -> None:
    items = list_items(root)
    assert [item.key for item in items] == KEYS[:3]
    assert [item.kind for item in items] == ["Train 00", "Train 01", "Train 02"]
    assert {item.state for item in items} == {"idle"}
    size = sum(path.stat().st_size for path in items[0].folder.iterdir())
    assert items[0].bytes == size > 3 * 70
    assert abs(items[0].creation_time - time.time()) < 60
    store = Store(root)
    assert store.load(KEYS[0])
    assert [(item.key, item.state) for item in list_items(root)][-1] == (KEYS[0], "in use")
    assert abs(list_items(root)[-1].last_use_time - time.time()) < 60
    store.release()
    assert {item.state for item in list_items(root)} == {"idle"}
    assert list_items(root / "missing") == []


def test_verify_item_quarantines_broken_entries(root: Path) -> None:
    (root / "entries" / KEYS[1][:2] / KEYS[1] / "notes.txt").write_text("other")
    before = list_items(root)
    store = Store(root)
    assert [verify_item(store, item) for item in before] == ["sound", "broken", "sound"]
    after = list_items(root)
    assert {(item.key, item.state) for item in after} == {
        (KEYS[0], "idle"),
        (KEYS[1], "quarantined"),
        (KEYS[2], "idle"),
    }
    assert [i.last_use_time for i in after if i.state == "idle"] == [before[0].last_use_time, before[2].last_use_time]
    quarantined = next(item for item in after if item.state == "quarantined")
    assert remove_item(root, quarantined)
    assert verify_item(store, quarantined) == "sound"  # a removed entry is not broken


def test_remove_item_keeps_used_entries(root: Path) -> None:
    items = list_items(root)
    store = Store(root)
    assert store.load(KEYS[0])
    entry, _ = store.ensure(KEYS[3], "a", make)
    assert not remove_item(root, items[0])  # in use
    new = next(item for item in list_items(root) if item.key == KEYS[3])
    assert not remove_item(root, new)  # in use since it was made
    store.release()
    assert not remove_item(root, items[0])  # used since it was listed
    assert remove_item(root, items[1])
    assert not remove_item(root, items[1])  # removed already
    assert sorted(list_keys(root)) == [KEYS[0], KEYS[2], KEYS[3]]
    assert entry.folder.exists()
    assert [remove_item(root, item) for item in list_items(root)] == [True] * 3
    assert not list((root / "trash").iterdir())
    assert Store(root).load(KEYS[0]) is None


def test_entries_are_released_with_their_store(root: Path) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    store = Store(root)
    assert store.load(KEYS[0]) and store.load(KEYS[0]) and store.load(KEYS[1])
    assert len(os.listdir("/proc/self/fd")) == descriptors + 2
    del store
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert {item.state for item in list_items(root)} == {"idle"}


def test_remove_item_keeps_entries_of_live_processes(root: Path) -> None:
    code = "import sys, time; from pathlib import Path; from lightexp.core.store import Store\n"
    code += "store = Store(Path(sys.argv[1])); store.load(sys.argv[2]); print('held', flush=True); time.sleep(600)"
    child = subprocess.Popen([sys.executable, "-c", code, str(root), KEYS[0]], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None and child.stdout.readline() == "held\n"
        items = {item.key: item for item in list_items(root)}
        assert items[KEYS[0]].state == "in use"
        assert not remove_item(root, items[KEYS[0]])
    finally:
        child.kill()
        child.communicate()
    items = {item.key: item for item in list_items(root)}
    assert items[KEYS[0]].state == "idle"
    assert remove_item(root, items[KEYS[0]])


def test_entry_lock_follows_a_replaced_entry(root: Path) -> None:
    store = Store(root)
    with ThreadPoolExecutor(1) as pool, entry_lock(store.folder(KEYS[0]), fcntl.LOCK_EX):
        loaded = pool.submit(store.load, KEYS[0])
        deadline = time.monotonic() + 60
        while not re.search(rf"-> FLOCK .* {os.getpid()} ", Path("/proc/locks").read_text()):
            assert time.monotonic() < deadline, "`load` does not wait for the lock"
            time.sleep(0.01)
        store.folder(KEYS[0]).rename(root / "away")
        other = Store(root)
        other.ensure(KEYS[0], "a", make)
        other.release()
    assert loaded.result()
    assert not remove_item(root, next(item for item in list_items(root) if item.key == KEYS[0]))


def test_sweep_orphans_leaves_live_work(root: Path) -> None:
    (root / "trash" / f"{KEYS[4]}-1").mkdir(parents=True)
    (root / "trash" / f"{KEYS[4]}-1" / "half").write_text("")
    (root / "drafts" / KEYS[5]).mkdir(parents=True)

    def make_and_sweep(folder: Path) -> dict[str, Any]:
        make(folder)
        assert sweep_orphans(root) == 2
        assert (folder / "notes.txt").exists()
        return {}

    store = Store(root)
    entry, _ = store.ensure(KEYS[6], "a", make_and_sweep)
    assert sweep_orphans(root) == 0
    assert {path.stem for path in (root / "locks").iterdir()} <= set(list_keys(root))  # no lock without an entry
    assert store.load(KEYS[6]) == entry
    assert len(list_keys(root)) == 4


# For n = 1, 2, ...: a process that removes entries kills itself, as `kill -9` does, at its n-th change on the disk.
REMOVE_AND_DIE = """
import os, signal, sys
from pathlib import Path
from lightexp.core.store import Store
from lightexp.core.store_gc import list_items, remove_item, sweep_orphans

root, keys = Path(sys.argv[1]), sys.argv[2:]
CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree"}

def make(folder):
    for name in ("model.tflite", "notes.txt", "weights.npz"):
        (folder / name).write_bytes(b"content" * 10)
    return {}

def remove_all(last):
    remaining = [last]
    def count_change(event, arguments):
        if event in CHANGES:
            remaining[0] -= 1
            if not remaining[0]:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(count_change)
    sweep_orphans(root)
    for item in list_items(root):
        assert remove_item(root, item)
    os._exit(0)

for number in range(1, 1000):
    store = Store(root)
    for key in keys:
        store.ensure(key, "a", make)
    store.release()
    child = os.fork()
    if not child:
        remove_all(number)
    _, status = os.waitpid(child, 0)
    listed = [item.key for item in list_items(root)]
    complete = [key for key in keys if Store(root).check(key)]
    quarantined = (root / "set-aside").exists()
    print(number, os.WTERMSIG(status), int(listed == complete), int(quarantined), len(complete), flush=True)
    if not os.WIFSIGNALED(status):
        break
sweep_orphans(root)
print(len(list((root / "trash").iterdir())))
"""


def test_remove_item_killed_leaves_complete_entries(tmp_path: Path) -> None:
    command = [sys.executable, "-c", REMOVE_AND_DIE, str(tmp_path / "store"), *KEYS[:3]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    *steps, trash = done.stdout.splitlines()
    rows = [tuple(map(int, step.split())) for step in steps]
    *killed, last = rows
    assert [row[0] for row in rows] == list(range(1, len(rows) + 1))
    assert {row[1:4] for row in killed} == {(signal.SIGKILL, 1, 0)}  # killed; all entries complete; none quarantined
    assert {row[4] for row in killed} == {0, 1, 2, 3}  # entries left when the process was killed
    assert last[1:] == (0, 1, 0, 0)
    assert len(killed) > 3 * 5  # three entries, each a rename and five deletions
    assert trash == "0"


USE_OR_REMOVE = """
import sys, time
from pathlib import Path
from lightexp.core.store import Store
from lightexp.core.store_gc import list_items, remove_item, sweep_orphans

root, role, keys = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]

def make(folder):
    (folder / "model.tflite").write_bytes(b"content" * 10)
    return {}

deadline, count = time.monotonic() + 1.5, 0
while time.monotonic() < deadline or not count:  # a process may start late on a busy machine
    if role == "remove":
        sweep_orphans(root)
        count += sum(remove_item(root, item) for item in list_items(root))
        continue
    store = Store(root)
    entries = [store.ensure(key, "a", make) for key in keys]
    for _ in range(3):
        assert all((entry.folder / "model.tflite").read_bytes() == b"content" * 10 for entry, _ in entries)
    count += sum(from_store for _, from_store in entries)
    store.release()
print(count)
"""


def test_entries_stay_while_a_run_uses_them(tmp_path: Path) -> None:
    root = tmp_path / "store"
    commands = [[sys.executable, "-c", USE_OR_REMOVE, str(root), role, *KEYS[:4]] for role in ("use", "use", "remove")]
    children = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for command in commands
    ]
    outputs = [child.communicate(timeout=120) for child in children]
    assert [child.returncode for child in children] == [0, 0, 0], outputs
    assert not (root / "set-aside").exists()


@st.composite
def draw_items(draw: st.DrawFn) -> list[StoreItem]:
    """Draw items of a store, the least recently used first."""
    fields = st.tuples(st.integers(0, 100), st.integers(0, 50), st.sampled_from(["idle", "in use", "quarantined"]))
    rows = draw(st.lists(fields, max_size=8))
    items = [
        StoreItem(f"k{n}", "a", Path(), f"k{n}", size, 0, used, state) for n, (size, used, state) in enumerate(rows)
    ]
    return sorted(items, key=lambda item: item.last_use_time)


@given(
    draw_items(),
    st.none() | st.integers(0, 60),
    st.none() | st.integers(0, 400),
    st.none() | st.sets(st.sampled_from([f"k{n}" for n in range(8)])),
)
def test_select_evictable_applies_every_rule(
    items: list[StoreItem], older_than: int | None, max_size: int | None, keep: set[str] | None
) -> None:
    evictable = select_evictable(items, 50, older_than, max_size, keep)
    candidates = [
        item
        for item in items
        if item.state != "in use"
        and (older_than is None or 50 - item.last_use_time >= older_than)
        and (keep is None or item.key not in keep or item.state == "quarantined")
    ]
    assert evictable == candidates[: len(evictable)]  # the least recently used first
    remaining = sum(item.bytes for item in items) - sum(item.bytes for item in evictable)
    if max_size is None:
        assert evictable == candidates
    elif evictable:
        assert remaining + evictable[-1].bytes > max_size  # no entry more than needed
    if max_size is not None and remaining > max_size:
        assert evictable == candidates  # every candidate, since too much remains
