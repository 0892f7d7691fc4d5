"""Store entries that are altered: each is quarantined, and none is served."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fault_kinds.attempts import Attempt, Lost, damage
from lightexp.core.json_text import encode_json
from lightexp.core.store import QUARANTINE, Store
from lightexp.core.store_entry import MANIFEST
from tests.fuzz import draw_mutant
from tests.special_files import SPECIAL_FILES, deadline

KEY = "ab" + "0" * 62
FACTS = {
    "history": {"loss": [1.0, 0.5], "seconds": [0.25, 0.125]},
    "sensitivity": {"layers": {"dense": {"levels": {"sparsity": {"0.5": 0.844, "0.9": 0.726}}}}, "examples": 40},
}


@contextmanager
def prepare(folder: Path) -> Iterator[Attempt]:
    """Make an entry, of which each attempt alters a copy."""
    store = Store(folder / "store")
    store.ensure(KEY, "Sensitivity", _make)
    store.release()
    entry, copy = store.folder(KEY), folder / "copy"
    shutil.copytree(entry, copy)

    def attempt(rng: random.Random) -> None:
        shutil.rmtree(entry, ignore_errors=True)
        shutil.copytree(copy, entry)
        form = rng.choice([_damage_file, _damage_file, _change_value, _change_value, _change_files])
        form(entry, rng)
        with deadline():
            if store.load(KEY) is not None:
                raise Lost(f"served after {form.__name__}")
        shutil.rmtree(store.root / QUARANTINE)

    yield attempt


def _make(folder: Path) -> dict[str, Any]:
    (folder / "model.tflite").write_bytes(random.Random(0).randbytes(2000))
    (folder / "weights.npz").write_bytes(random.Random(1).randbytes(500))
    return FACTS


def _draw_file(folder: Path, rng: random.Random) -> Path:
    return rng.choice(sorted(folder.iterdir()))


def _damage_file(folder: Path, rng: random.Random) -> None:
    path = _draw_file(folder, rng)
    path.write_bytes(damage(path.read_bytes(), rng))


def _change_value(folder: Path, rng: random.Random) -> None:
    """Change a value of the manifest, which stays valid JSON in the store's layout where that can hold it."""
    path = folder / MANIFEST
    tree = json.loads(path.read_text(encoding="utf-8"))
    while (mutant := draw_mutant(tree, rng)) == tree:
        pass
    try:
        text = encode_json(mutant, indent=1)
    except ValueError:
        text = json.dumps(mutant, indent=1)
    path.write_text(text, encoding="utf-8", errors="surrogatepass")


def _change_files(folder: Path, rng: random.Random) -> None:
    """Remove or add a file, or put something else in the place of one, or of the entry."""
    place = rng.choice([_draw_file(folder, rng), _draw_file(folder, rng), folder / "another", folder])
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)
    if place == folder or place.name == "another" or rng.random() < 0.7:
        SPECIAL_FILES[rng.choice(list(SPECIAL_FILES))](place)
