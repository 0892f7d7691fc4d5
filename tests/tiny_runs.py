"""Run pipelines for real in seconds: a tiny data set, narrow models, one epoch, no tracking."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from lightexp.core.data import Data
from lightexp.core.protocols import TFLITE
from lightexp.core.record import RECORD_FILE, Record, read_record
from lightexp.core.store import Store
from lightexp.core.store_entry import OWN_FILES
from lightexp.core.tflite_graph import TFLiteGraph
from lightexp.runner.compose import compose_config
from lightexp.runner.plan import Plan
from lightexp.runner.progress import SilentReporter
from lightexp.runner.run import Runner
from lightexp.runner.settings import Settings, read_settings

SMALL_VALUES = {"width": 0.5, "alpha": 0.1}
"""Values of model settings that make a model small, where it has the setting."""


class TinyRuns:
    """Runs in this process that share an outputs folder, and so a store.

    Attributes:
        outputs: The outputs folder.
        arrays: The data set: 200 images of 8x8 pixels in 4 classes, each with one bright quarter.
    """

    def __init__(self, folder: Path) -> None:
        """Write the data set.

        Args:
            folder: Existing folder for the data set and the outputs.
        """
        rng = np.random.default_rng(0)
        y = np.arange(200) % 4
        x = rng.integers(0, 128, (200, 8, 8), np.uint8)
        for label in range(4):
            row, column = 4 * (label // 2), 4 * (label % 2)
            x[y == label, row : row + 4, column : column + 4] += 100
        self.outputs = folder / "outputs"
        self.arrays = folder / "tiny.npz"
        np.savez(self.arrays, x=x, y=y)
        self._runner = Runner(SilentReporter())
        self._composed: dict[tuple[str, ...], tuple[list[str], Settings]] = {}

    def list_overrides(self, *overrides: str) -> list[str]:
        """Return `overrides` with those that make every stage and the model small."""
        return self._compose(overrides)[0]

    def compose_settings(self, *overrides: str) -> Settings:
        """Return the settings of a tiny run."""
        return self._compose(overrides)[1]

    def _compose(self, overrides: tuple[str, ...]) -> tuple[list[str], Settings]:
        """Return all overrides and the settings; cached, since composing takes longer than many a stage."""
        if overrides not in self._composed:
            paths = [f"dataset.path={self.arrays}", f"paths.outputs={self.outputs}"]
            all_overrides = ["dataset=arrays", "tracking=none", "measure=quick", *paths, *overrides]
            config = compose_config(all_overrides)
            small = {f"model.{name}": value for name, value in SMALL_VALUES.items() if name in config.model}
            trained = [name for name, stage in config.pipeline.stages.items() if "epochs" in stage]
            small |= {f"pipeline.stages.{name}.epochs": 1 for name in trained}
            for name, value in small.items():
                OmegaConf.update(config, name, value)
            all_overrides += [f"{name}={value}" for name, value in small.items()]
            self._composed[overrides] = all_overrides, read_settings(config)
        return self._composed[overrides]

    def plan(self, *overrides: str) -> tuple[Plan, Data]:
        """Plan a tiny run."""
        return self._runner.plan(self.compose_settings(*overrides))

    def run(self, *overrides: str) -> Record:
        """Run a pipeline; stages that the store has are loaded from it."""
        all_overrides, settings = self._compose(overrides)
        return self._runner.run(settings, all_overrides)

    def read_newest_record(self) -> Record:
        """Return the record of the latest run, also of one that failed; its JSON must be valid."""
        file = max((self.outputs / "runs").glob(f"*/{RECORD_FILE}"), key=lambda file: file.stat().st_mtime_ns)
        json.loads(file.read_text(), parse_constant=pytest.fail)
        return read_record(file.parent)

    def get_file(self, record: Record) -> Path:
        """Return the .tflite file that a run shipped."""
        return self.outputs / "runs" / record.id / TFLITE

    def read_graph(self, record: Record) -> TFLiteGraph:
        """Return the graph of the file that a run shipped."""
        from lightexp.backend.flatbuffer import read_graph

        return read_graph(self.get_file(record))

    def load_facts(self, key: str) -> dict[str, Any]:
        """Return the facts of a store entry."""
        entry = Store(self.outputs / "store").load(key)
        assert entry is not None
        return entry.facts


@contextmanager
def alter_entry(root: Path, key: str, change: Callable[[Path, dict[str, Any]], object]) -> Iterator[None]:
    """Put another entry, whose digests are right, in the place of an entry of the store at `root`, for a while.

    Args:
        root: The store's folder.
        key: Key of the entry.
        change: Changes the entry's files in a folder, and its facts.
    """
    store = Store(root)
    entry = store.check(key)
    assert entry is not None
    original = entry.folder.rename(root / "original")

    def make(folder: Path) -> dict[str, Any]:
        for path in original.iterdir():
            if path.name not in OWN_FILES:
                shutil.copyfile(path, folder / path.name)
        change(folder, entry.facts)
        return entry.facts

    store.ensure(key, "Altered", make)
    store.release()
    yield
    shutil.rmtree(entry.folder)
    original.rename(entry.folder)


def find_text(folder: Path, text: str) -> list[Path]:
    """Return the files below a folder whose name or content holds a text."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return [path for path in files if text in str(path.relative_to(folder)) or text.encode() in path.read_bytes()]
