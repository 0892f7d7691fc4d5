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

from lightexp.core.store import MANIFEST, Store, entry_lock
from lightexp.core.store_gc import StoreItem, list_items, remove_item, select_evictable, sweep_orphans, verify_item

KEYS = [f"{number:02x}" + "0" * 62 for number in range(8)]


def make(folder: Path) -> dict[str, Any]:
    for name in ("model.tflite", "notes.txt", "weights.npz"):
        (folder / name).write_bytes(b"content" * 10)
    return {}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A store of three entries that nobody uses, made one after another."""
    store = Store(tmp_path / "store")
    for age, key in enumerate(KEYS[:3]):
        entry, _ = store.ensure(key, f"Train {key[:2]}", make)
        os.utime(entry.folder / MANIFEST, (0, 1000 + age))
    store.release()
    return store.root


def keys(root: Path) -> list[str]:
    return [item.key for item in list_items(root)]


def test_list_items_starts_with_the_least_recently_used(root: Path) -> None:
    there = list_items(root)
    assert [item.key for item in there] == KEYS[:3]
    assert [item.kind for item in there] == ["Train 00", "Train 01", "Train 02"]
    assert {item.state for item in there} == {"idle"}
    size = sum(path.stat().st_size for path in there[0].folder.iterdir())
    assert there[0].bytes == size > 3 * 70
    assert abs(there[0].made - time.time()) < 60
    store = Store(root)
    assert store.load(KEYS[0])
    assert [(item.key, item.state) for item in list_items(root)][-1] == (KEYS[0], "in use")
    assert abs(list_items(root)[-1].used - time.time()) < 60
    store.release()
    assert {item.state for item in list_items(root)} == {"idle"}
    assert list_items(root / "missing") == []


def test_verify_item_quarantines_broken_entries(root: Path) -> None:
    (root / "entries" / KEYS[1][:2] / KEYS[1] / "notes.txt").write_text("other")
    before = list_items(root)
    store = Store(root)
    assert [verify_item(store, item) for item in before] == [True, False, True]
    after = list_items(root)
    assert {(item.key, item.state) for item in after} == {
        (KEYS[0], "idle"),
        (KEYS[1], "quarantined"),
        (KEYS[2], "idle"),
    }
    assert [i.used for i in after if i.state == "idle"] == [before[0].used, before[2].used]
    quarantined = next(item for item in after if item.state == "quarantined")
    assert remove_item(root, quarantined)
    assert verify_item(store, quarantined) is not False  # what is gone is not broken


def test_remove_item_keeps_used_entries(root: Path) -> None:
    there = list_items(root)
    store = Store(root)
    assert store.load(KEYS[0])
    made, _ = store.ensure(KEYS[3], "a", make)
    assert not remove_item(root, there[0])  # held
    assert not remove_item(
        root, next(item for item in list_items(root) if item.key == KEYS[3])
    )  # held since it was made
    store.release()
    assert not remove_item(root, there[0])  # used since it was listed
    assert remove_item(root, there[1])
    assert not remove_item(root, there[1])  # gone already
    assert sorted(keys(root)) == [KEYS[0], KEYS[2], KEYS[3]]
    assert made.folder.exists()
    assert [remove_item(root, item) for item in list_items(root)] == [True] * 3
    assert not list((root / "trash").iterdir())
    assert Store(root).load(KEYS[0]) is None


def test_list_items_of_a_missing_store(root: Path) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    store = Store(root)
    assert store.load(KEYS[0]) and store.load(KEYS[0]) and store.load(KEYS[1])
    assert len(os.listdir("/proc/self/fd")) == descriptors + 2
    del store
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert {item.state for item in list_items(root)} == {"idle"}


def test_remove_item_keeps_entries_of_live_processes(root: Path) -> None:
    words = "import sys, time; from pathlib import Path; from lightexp.core.store import Store\n"
    words += "store = Store(Path(sys.argv[1])); store.load(sys.argv[2]); print('held', flush=True); time.sleep(600)"
    child = subprocess.Popen([sys.executable, "-c", words, str(root), KEYS[0]], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None and child.stdout.readline() == "held\n"
        there = {item.key: item for item in list_items(root)}
        assert there[KEYS[0]].state == "in use"
        assert not remove_item(root, there[KEYS[0]])
    finally:
        child.kill()
        child.communicate()
    there = {item.key: item for item in list_items(root)}
    assert there[KEYS[0]].state == "idle"
    assert remove_item(root, there[KEYS[0]])


def test_entry_lock_follows_a_replaced_entry(root: Path) -> None:
    store = Store(root)
    with ThreadPoolExecutor(1) as quarantined, entry_lock(store.folder(KEYS[0]), fcntl.LOCK_EX):
        loaded = quarantined.submit(store.load, KEYS[0])
        end = time.monotonic() + 60
        while not re.search(rf"-> FLOCK .* {os.getpid()} ", Path("/proc/locks").read_text()):
            assert time.monotonic() < end, "it does not wait"
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

    def while_it_is_made(folder: Path) -> dict[str, Any]:
        make(folder)
        assert sweep_orphans(root) == 2
        assert (folder / "notes.txt").exists()
        return {}

    store = Store(root)
    entry, _ = store.ensure(KEYS[6], "a", while_it_is_made)
    assert sweep_orphans(root) == 0
    assert {path.stem for path in (root / "locks").iterdir()} <= set(keys(root))  # of what is there alone
    assert store.load(KEYS[6]) == entry
    assert len(keys(root)) == 4


# Kills itself, as `kill -9` does, at the n-th time that it changes anything on the disk, for every n in turn.
KILLED = """
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

def collect(last):
    left = [last]
    def watch(event, arguments):
        if event in CHANGES:
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(watch)
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
        collect(number)
    _, status = os.waitpid(child, 0)
    there = [item.key for item in list_items(root)]
    whole = [key for key in keys if Store(root).check(key)]
    quarantined = (root / "set-aside").exists()
    print(number, os.WTERMSIG(status), int(there == whole), int(quarantined), len(whole), flush=True)
    if not os.WIFSIGNALED(status):
        break
sweep_orphans(root)
print(len(list((root / "trash").iterdir())))
"""


def test_remove_item_killed_leaves_complete_entries(tmp_path: Path) -> None:
    words = [sys.executable, "-c", KILLED, str(tmp_path / "store"), *KEYS[:3]]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
    *steps, trash = done.stdout.splitlines()
    rows = [tuple(map(int, step.split())) for step in steps]
    *killed, last = rows
    assert [row[0] for row in rows] == list(range(1, len(rows) + 1))
    assert {row[1:4] for row in killed} == {(signal.SIGKILL, 1, 0)}  # killed; whole entries only; none broken
    assert {row[4] for row in killed} == {0, 1, 2, 3}  # before the first, between any two, and after the last had gone
    assert last[1:] == (0, 1, 0, 0)
    assert len(killed) > 3 * 5  # three entries, each a rename and five deletions
    assert trash == "0"


RACER = """
import sys, time
from pathlib import Path
from lightexp.core.store import Store
from lightexp.core.store_gc import list_items, remove_item, sweep_orphans

root, what, keys = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]

def make(folder):
    (folder / "model.tflite").write_bytes(b"content" * 10)
    return {}

end, count = time.monotonic() + 1.5, 0
while time.monotonic() < end or not count:  # a busy machine may start one late
    if what == "collect":
        sweep_orphans(root)
        count += sum(remove_item(root, item) for item in list_items(root))
        continue
    store = Store(root)
    entries = [store.ensure(key, "a", make) for key in keys]
    for _ in range(3):
        assert all((entry.folder / "model.tflite").read_bytes() == b"content" * 10 for entry, _ in entries)
    count += sum(found for _, found in entries)
    store.release()
print(count)
"""


def test_entries_stay_while_a_run_uses_them(tmp_path: Path) -> None:
    root = tmp_path / "store"
    words = [[sys.executable, "-c", RACER, str(root), what, *KEYS[:4]] for what in ("use", "use", "collect")]
    children = [subprocess.Popen(w, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for w in words]
    said = [child.communicate(timeout=120) for child in children]
    assert [child.returncode for child in children] == [0, 0, 0], said
    assert not (root / "set-aside").exists()


@st.composite
def stores(draw: st.DrawFn) -> list[StoreItem]:
    drawn = st.tuples(st.integers(0, 100), st.integers(0, 50), st.sampled_from(["idle", "in use", "quarantined"]))
    rows = draw(st.lists(drawn, max_size=8))
    made = [StoreItem(f"k{n}", "a", Path(f"k{n}"), size, 0, used, state) for n, (size, used, state) in enumerate(rows)]
    return sorted(made, key=lambda item: item.used)


@given(
    stores(),
    st.none() | st.integers(0, 60),
    st.none() | st.integers(0, 400),
    st.none() | st.sets(st.sampled_from([f"k{n}" for n in range(8)])),
)
def test_select_evictable_applies_every_rule(
    there: list[StoreItem], older: int | None, most: int | None, named: set[str] | None
) -> None:
    gone = select_evictable(there, 50, older, most, named)
    free = [
        item
        for item in there
        if item.state != "in use"
        and (older is None or 50 - item.used >= older)
        and (named is None or item.key not in named or item.state == "quarantined")
    ]
    assert gone == free[: len(gone)]  # the least recently used first
    left = sum(item.bytes for item in there) - sum(item.bytes for item in gone)
    if most is None:
        assert gone == free
    elif gone:
        assert left + gone[-1].bytes > most  # none too many
    if most is not None and left > most:
        assert gone == free  # none too few
