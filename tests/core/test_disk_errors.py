"""Disks that are full or cannot be written, under the store."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from lightexp.core.disk_errors import explain_disk_errors
from lightexp.core.errors import RunFailed
from lightexp.core.remote_lease import RemoteLeases
from lightexp.core.store import Store
from tests.core.remote_hosts import Host
from tests.small_disk import fill_disk, mount_small_disk

KEY = "ab" + "0" * 62


def make(folder: Path) -> dict[str, Any]:
    (folder / "model.tflite").write_bytes(b"weights" * 100)
    (folder / "notes.txt").write_text("none")
    return {"loss": [1.0, 0.5]}


def list_files(root: Path) -> list[str]:
    """Return all files below `root` except locks."""
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file() and p.suffix != ".lock")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return the folder of a file system of one megabyte."""
    with mount_small_disk(tmp_path / "disk") as folder:
        yield folder


def write_hdf5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["a"] = np.ones(250_000)


WRITERS: dict[str, Callable[[Path], object]] = {
    "file": lambda path: path.write_bytes(bytes(2_000_000)),
    "npy": lambda path: np.save(path, np.ones(250_000)),  # raises an OSError without a number
    "npz": lambda path: np.savez(path, np.ones(250_000)),
    "hdf5": write_hdf5,
}


def test_ensure_reports_a_full_disk(small_disk: Path) -> None:
    store = Store(small_disk / "store")
    first, _ = store.ensure(KEY, "a", make)
    other = "cd" + "0" * 62
    message = f"The disk that holds {store.root} is full. Free some space and run the same command."
    makes: list[Callable[[Path], dict[str, Any]]] = [lambda folder: {"large": "x" * 2_000_000}]
    makes += [lambda folder, write=write: {"made": write(folder / "a.npy")} for write in WRITERS.values()]
    for make_large in makes:
        with pytest.raises(RunFailed) as caught:
            store.ensure(other, "a", make_large)
        assert str(caught.value) == message
        assert not store.has(other)
        assert not any("drafts" in name for name in list_files(store.root))
    assert store.load(KEY) == first
    _, from_store = store.ensure(other, "a", make)  # the failed entry was removed
    assert not from_store
    store.release()  # so that the disk can be unmounted


def test_disk_full_at_any_moment_leaves_nothing(small_disk: Path) -> None:
    store = Store(small_disk / "store")
    failed = 0
    for pages in range(12):  # that are free
        fill_disk(small_disk, pages)
        before = list_files(store.root)
        key = f"{pages:064}"
        with suppress(RunFailed):
            entry, from_store = store.ensure(key, "a", make)
            assert not from_store and store.load(key) == entry
        if not store.has(key):
            assert list_files(store.root) == before
            failed += 1
    assert 0 < failed < 12
    store.release()


def test_ensure_reports_a_full_disk_of_a_fetched_entry(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make_large(folder: Path) -> dict[str, Any]:
        (folder / "model.tflite").write_bytes(bytes(2_000_000))
        return {}

    url = f"file://{tmp_path / 'remote'}"
    first, second = Host(tmp_path / "a", url), Host(small_disk, url)
    first.store.ensure(KEY, "a", make_large)
    first.store.close()
    (tmp_path / "remote" / "entries" / "ab" / KEY / "manifest.json").rename(tmp_path / "manifest.json")

    acquire = RemoteLeases.acquire

    def complete(self: RemoteLeases, key: str) -> bool:  # another host's upload ends between the look and the lease
        is_acquired = acquire(self, key)
        (tmp_path / "manifest.json").rename(tmp_path / "remote" / "entries" / "ab" / KEY / "manifest.json")
        return is_acquired

    monkeypatch.setattr(RemoteLeases, "acquire", complete)
    with pytest.raises(RunFailed, match=f"^The disk that holds {small_disk} is full"):
        second.store.ensure(KEY, "a", make)
    assert second.lines == []
    assert list_files(small_disk) == []
    assert list_files(tmp_path / "remote" / "leases") == []
    second.store.release()


def test_explain_disk_errors_names_what_is_in_the_way(tmp_path: Path) -> None:
    place = tmp_path / "runs" / ".sync.lock"
    place.mkdir(parents=True)
    message = f"{tmp_path} cannot be written: Is a directory ({place}). Set paths.outputs=FOLDER."
    with pytest.raises(RunFailed, match=re.escape(message)), explain_disk_errors(tmp_path):
        place.write_text("")


def test_ensure_reports_an_unwritable_folder(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    is_root = os.geteuid() == 0  # root may write everywhere except on a read-only disk
    disk = request.getfixturevalue("small_disk") if is_root else tmp_path
    store = Store(disk / "store")
    entry, _ = store.ensure(KEY, "a", make)
    broken = "cd" + "0" * 62
    (store.ensure(broken, "a", make)[0].folder / "notes.txt").write_text("cut")
    if is_root:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    else:
        for folder in [store.root, *store.root.rglob("*")]:
            folder.chmod(0o500)
    assert store.ensure(KEY, "a", lambda folder: pytest.fail("it was made again")) == (
        entry,
        True,
    )  # loading writes nothing
    for key in ("ef" + "0" * 62, broken):
        with pytest.raises(RunFailed) as caught:
            store.ensure(key, "a", make)
        reason = "Read-only file system" if is_root else "Permission denied"
        assert str(caught.value) == f"{store.root} cannot be written: {reason}. Set paths.outputs=FOLDER."
    store.release()  # so that the disk can be unmounted


def test_ensure_reports_an_impossible_folder() -> None:
    with pytest.raises(RunFailed, match=r"/proc/there cannot be written: .* Set paths.outputs=FOLDER."):
        Store(Path("/proc/there")).ensure(KEY, "a", make)
