"""Manifests of wrong types and sizes: the entry is quarantined, and every command goes on."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from lightexp.core import store_gc
from lightexp.core.fingerprint import hash_file
from lightexp.core.store import QUARANTINE, Store
from lightexp.core.store_entry import MANIFEST, MANIFEST_DIGEST
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


@pytest.mark.parametrize(
    ("name", "value"), [("facts", [["loss", 1]]), ("facts", []), ("seconds", -1), ("seconds", 1e999)]
)
def test_wrong_values_are_quarantined_in_spite_of_digests(tmp_path: Path, name: str, value: object) -> None:
    store = Store(tmp_path / "store")
    store.ensure(KEY, "train", make)
    store.release()
    folder = store.folder(KEY)
    manifest = {**json.loads((folder / MANIFEST).read_text(encoding="utf-8")), name: value}
    files = {file: digest for file, digest in manifest["files"].items() if file != MANIFEST_DIGEST}
    text = json.dumps({**manifest, "files": {**files, MANIFEST_DIGEST: ""}})
    (folder / MANIFEST_DIGEST).write_text(hashlib.sha256(text.encode()).hexdigest(), encoding="utf-8")
    files[MANIFEST_DIGEST] = hash_file(folder / MANIFEST_DIGEST)
    (folder / MANIFEST).write_text(json.dumps({**manifest, "files": files}), encoding="utf-8")
    assert store.load(KEY) is None
