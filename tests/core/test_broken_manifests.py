"""Manifests of wrong types and sizes: the entry is quarantined, and every command goes on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from lightexp.core import store_gc
from lightexp.core.store import QUARANTINE, Store
from lightexp.core.store_entry import MANIFEST
from tests.fuzz import mutate

KEY = "k" * 64


def make(folder: Path) -> dict[str, object]:
    (folder / "model.tflite").write_bytes(b"x")
    return {"history": {"loss": [1.0]}}


def test_mutants_of_a_manifest_are_quarantined(tmp_path: Path, mutants: int) -> None:
    store = Store(tmp_path / "store")
    store.ensure(KEY, "train", make)
    store.release()
    folder, copy = store.folder(KEY), tmp_path / "copy"
    shutil.copytree(folder, copy)
    tree = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    for change, mutant in mutate(tree, mutants):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(copy, folder)
        (folder / MANIFEST).write_text(json.dumps(mutant), encoding="utf-8")
        [item] = [item for item in store_gc.list_items(store.root) if item.state != "quarantined"]
        assert item.key == KEY, change
        assert store.load(KEY) is None, change
        shutil.rmtree(store.root / QUARANTINE, ignore_errors=True)
