"""Real runs of seconds: a tiny data set, narrow models, one epoch, no tracking."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from lightexp.core.data import Data
from lightexp.core.protocols import TFLITE
from lightexp.core.record import Record
from lightexp.core.store import Store
from lightexp.core.tflite_graph import TFLiteGraph
from lightexp.runner.compose import compose_config
from lightexp.runner.plan import Plan
from lightexp.runner.progress import SilentReporter
from lightexp.runner.run import Runner
from lightexp.runner.settings import Settings, read_settings

NARROW = {"width": 0.5, "alpha": 0.1}
"""Of models that take one: what it is set to."""


class TinyRuns:
    """Runs in this process that share a folder of outputs, and so a store."""

    def __init__(self, folder: Path) -> None:
        """Writes the data set: 200 images of 8x8 pixels in 4 classes, each class bright in a quarter of its own."""
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
        self._known: dict[tuple[str, ...], tuple[list[str], Settings]] = {}

    def overrides(self, *words: str) -> list[str]:
        """The given overrides, and those that make every stage and the model small."""
        return self._composed(words)[0]

    def settings(self, *words: str) -> Settings:
        """The settings of a tiny run."""
        return self._composed(words)[1]

    def _composed(self, words: tuple[str, ...]) -> tuple[list[str], Settings]:
        """Overrides and settings; composed once only, which takes longer than many a stage."""
        if words not in self._known:
            place = [f"dataset.path={self.arrays}", f"paths.outputs={self.outputs}"]
            all_words = ["dataset=arrays", "tracking=none", "measure=quick", *place, *words]
            config = compose_config(all_words)
            small = {f"model.{name}": share for name, share in NARROW.items() if name in config.model}
            trained = [name for name, stage in config.pipeline.stages.items() if "epochs" in stage]
            small |= {f"pipeline.stages.{name}.epochs": 1 for name in trained}
            for name, value in small.items():
                OmegaConf.update(config, name, value)
            self._known[words] = [*all_words, *(f"{n}={v}" for n, v in small.items())], read_settings(config)
        return self._known[words]

    def plan(self, *words: str) -> tuple[Plan, Data]:
        """Plans a tiny run."""
        return self._runner.plan(self.settings(*words))

    def run(self, *words: str) -> Record:
        """Runs a pipeline; a stage that is in the store already is taken from there."""
        overrides, settings = self._composed(words)
        return self._runner.run(settings, overrides)

    def file(self, record: Record) -> Path:
        """The flatbuffer that a run ships."""
        return self.outputs / "runs" / record.id / TFLITE

    def flat(self, record: Record) -> TFLiteGraph:
        """What the shipped flatbuffer holds."""
        from lightexp.backend.flatbuffer import read_graph

        return read_graph(self.file(record))

    def facts(self, key: str) -> dict[str, Any]:
        """What the maker of a store's entry said of it."""
        entry = Store(self.outputs / "store").load(key)
        assert entry is not None
        return entry.facts
