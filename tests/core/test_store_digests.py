"""The digests of a store entry: any change of its files or of what its manifest says is detected."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lightexp.core.store import Store
from lightexp.core.store_entry import MANIFEST, MANIFEST_DIGEST
from lightexp.core.store_gc import list_items, verify_item

KEY = "ab" + "0" * 62


def make(folder: Path) -> dict[str, Any]:
    (folder / "model.tflite").write_bytes(b"weights")
    return {"loss": [1.0, 0.5]}


def make_undigested(folder: Path) -> None:
    """Turn an entry into one of version 0.1."""
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest["files"][MANIFEST_DIGEST]
    (folder / MANIFEST).write_text(json.dumps(manifest))
    (folder / MANIFEST_DIGEST).unlink()


def is_detected(store: Store, name: str, content: bytes) -> bool:
    """Tell whether the entry is quarantined with another content of one of its files, and undo that."""
    path = store.folder(KEY) / name
    before = path.read_bytes()
    path.write_bytes(content)
    detected = store.check(KEY) is None
    if detected:
        (quarantined,) = (store.root / "set-aside").iterdir()
        quarantined.rename(store.folder(KEY))
    path.write_bytes(before)
    return detected


def test_check_detects_any_changed_byte(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    entry, _ = store.ensure(KEY, "Train train", make)
    names = [path.name for path in entry.folder.iterdir()]
    assert sorted(names) == [MANIFEST_DIGEST, MANIFEST, "model.tflite"]
    for name in names:
        content = (entry.folder / name).read_bytes()
        for position in range(0, len(content), 4):
            changed = bytearray(content)
            changed[position] ^= 1
            assert is_detected(store, name, bytes(changed)), f"{name}, byte {position}"
        assert is_detected(store, name, content + b"\n") and is_detected(store, name, content[:-1])
    assert store.check(KEY) == entry


FACTS = {
    "history": {"loss": [1.0, 0.5], "seconds": [0.25, 0.125]},
    "sensitivity": {"layers": {"dense": {"levels": {"zeros": {"0.5": 0.844, "0.9": 0.726}}}}, "examples": 40},
    "kept": None,
    "is_float": True,
    "name": "\u00e9\ud800",
}


def list_paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of each value in a tree of JSON types."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from list_paths(inner, (*path, key))


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=3,
)


@given(st.data())
def test_check_detects_any_changed_value(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    store = Store(tmp_path_factory.getbasetemp() / "changed-values")
    entry, _ = store.ensure(KEY, "Sensitivity", lambda folder: (folder / "a").write_text("a") and FACTS)
    manifest = json.loads((entry.folder / MANIFEST).read_text())
    *outer, last = data.draw(st.sampled_from(list(list_paths(manifest))), label="path")
    changed = json.loads(json.dumps(manifest))
    node = reduce(lambda inner, key: inner[key], outer, changed)
    if data.draw(st.booleans(), label="remove"):
        del node[last]
    else:
        near = [value for value in (node[last],) if isinstance(value, int | float)]
        node[last] = data.draw(JSON_VALUES | st.sampled_from([*near, 0]).map(lambda value: value + 1e-9), label="value")
    assume(json.dumps(changed) != json.dumps(manifest))
    assert is_detected(store, MANIFEST, json.dumps(changed, indent=1).encode())
    assert store.check(KEY) == entry


def test_ensure_serves_entries_of_version_0_1(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    entry, _ = store.ensure(KEY, "a", make)
    make_undigested(entry.folder)
    again, from_store = store.ensure(KEY, "a", lambda folder: pytest.fail("the entry was made again"))
    assert from_store and again == replace(entry, has_manifest_digest=False)
    assert verify_item(store, list_items(store.root)[0]) == "facts without digest"
