"""The index of a store: what it saves, and that nothing is believed that the entries no longer say."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lightexp.core.store import Store
from lightexp.core.store_entry import MANIFEST
from lightexp.core.store_gc import list_items, remove_item
from lightexp.core.store_index import INDEX, append_rows

KEYS = [f"{number:02x}" + "0" * 62 for number in range(4)]


def make(folder: Path) -> dict[str, Any]:
    (folder / "model.tflite").write_bytes(b"content" * 10)
    return {}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The root of a store with an entry of each key."""
    store = Store(tmp_path / "store")
    for key in KEYS:
        store.ensure(key, f"Train {key[:2]}", make)
    store.release()
    return store.root


def count_read(root: Path) -> int:
    """Return how many entries a listing reads because the index lacks them."""
    keys: list[None] = []
    list_items(root, on_read=lambda: keys.append(None))
    return len(keys)


def test_made_entries_are_in_the_index(root: Path) -> None:
    indexed = list_items(root)
    assert count_read(root) == 0
    (root / INDEX).unlink()
    assert list_items(root) == indexed
    assert count_read(root) == 0  # the listing has made the index again


def test_listing_reads_entries_that_have_changed(root: Path) -> None:
    store = Store(root)
    manifest = store.folder(KEYS[0]) / MANIFEST
    manifest.write_text(manifest.read_text().replace("Train 00", "Other train"))
    os.utime(store.folder(KEYS[1]) / MANIFEST, (0, 1000))
    items = {item.key: item for item in list_items(root)}
    assert items[KEYS[0]].kind == "Other train"
    assert items[KEYS[1]].last_use_time == 1000
    manifest.write_text("{")
    assert next(item.kind for item in list_items(root) if item.key == KEYS[0]) == "?"
    assert count_read(root) == 1  # what cannot be read is looked at each time


def test_removed_and_remade_entry_is_read_again(root: Path) -> None:
    item = next(item for item in list_items(root) if item.key == KEYS[0])
    assert remove_item(root, item)
    assert KEYS[0] not in {item.key for item in list_items(root)}
    store = Store(root)
    store.ensure(KEYS[0], "Another kind", make)
    assert next(item.kind for item in list_items(root) if item.key == KEYS[0]) == "Another kind"


@pytest.mark.parametrize("content", [b"", b"\xff\n", b'["\n', b"[" * 100_000, b"{}\n7\n", b'["k",1,2,3,"a",NaN]\n'])
def test_damaged_index_is_made_again(root: Path, content: bytes) -> None:
    before = list_items(root)
    (root / INDEX).write_bytes(content)
    assert list_items(root) == before
    (root / INDEX).write_bytes(content + (root / INDEX).read_bytes()[:-20])
    assert list_items(root) == before
    assert count_read(root) <= 1  # the first row was added to the line that was cut short
    assert count_read(root) == 0


@pytest.mark.parametrize(
    "values", ['-5, "a", 1.0', "5, 7, 1.0", '5, "a", -1.0', '5, "a", NaN', '5, "a"', '5.5, "a", 1.0']
)
def test_impossible_row_is_not_believed(root: Path, values: str) -> None:
    before = list_items(root)
    status = (Store(root).folder(KEYS[0]) / MANIFEST).stat()
    (root / INDEX).write_text(f'["{KEYS[0]}", {status.st_ino}, {status.st_size}, {values}]\n')
    assert list_items(root) == before


def test_entry_of_another_user_is_listed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / INDEX).unlink()
    list_files = Path.iterdir

    def refuse(folder: Path) -> Iterator[Path]:
        if folder.name == KEYS[0]:
            raise PermissionError(13, "Permission denied", str(folder))
        return list_files(folder)

    monkeypatch.setattr(Path, "iterdir", refuse)
    items = {item.key: item for item in list_items(root)}
    assert set(items) == set(KEYS)
    assert items[KEYS[0]].bytes == 0


def test_index_elsewhere_is_not_written(root: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("mine")
    (root / INDEX).unlink()
    (root / INDEX).symlink_to(other)
    before = list_items(root)
    Store(root).ensure("ff" * 32, "a", make)
    assert len(list_items(root)) == len(before) + 1
    assert other.read_text() == "mine"
    (root / INDEX).unlink()
    os.mkfifo(root / INDEX)
    assert len(list_items(root)) == len(before) + 1


def test_rows_of_removed_entries_are_dropped(root: Path) -> None:
    row = (root / INDEX).read_text().splitlines()[0]
    (root / INDEX).write_text(f"{row}\n" * 3000)
    before = list_items(root)
    assert len((root / INDEX).read_text().splitlines()) == len(before) == len(KEYS)
    append_rows(root, [])
    assert count_read(root) == 0
