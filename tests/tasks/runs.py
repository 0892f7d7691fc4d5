"""Tiny runs of tasks on scikit-learn's tables."""

from __future__ import annotations

from pathlib import Path

from omegaconf import OmegaConf

from lightexp.core.protocols import TFLITE
from lightexp.core.record import Record
from lightexp.core.tflite_graph import TFLiteGraph
from lightexp.runner.compose import compose_config
from lightexp.runner.progress import SilentReporter
from lightexp.runner.run import Runner
from lightexp.runner.settings import read_settings


class TaskRuns:
    """Runs in this process that share an outputs folder, and so a store.

    Attributes:
        outputs: The outputs folder.
    """

    def __init__(self, folder: Path) -> None:
        """Create nothing yet."""
        self.outputs = folder / "outputs"
        self._runner = Runner(SilentReporter())

    def list_overrides(self, *overrides: str) -> list[str]:
        """Return `overrides` with those that choose a table and a small model."""
        has_model = any(override.startswith("model=") for override in overrides)
        model = [] if has_model else ["model=article_mlp", "model.width=0.25"]
        return [
            "dataset=sklearn",
            *model,
            "tracking=none",
            "measure=quick",
            f"paths.outputs={self.outputs}",
            *overrides,
        ]

    def run(self, *overrides: str, epochs: int = 3) -> Record:
        """Run a pipeline whose stages train for a few epochs."""
        all_overrides = self.list_overrides(*overrides)
        config = compose_config(all_overrides)
        for name, stage in config.pipeline.stages.items():
            if "epochs" in stage:
                OmegaConf.update(config, f"pipeline.stages.{name}.epochs", epochs)
                OmegaConf.update(config, f"pipeline.stages.{name}.learning_rate", 0.01)
        return self._runner.run(read_settings(config), all_overrides)

    def read_graph(self, record: Record) -> TFLiteGraph:
        """Return the graph of the file that a run shipped."""
        from lightexp.backend.flatbuffer import read_graph

        return read_graph(self.outputs / "runs" / record.id / TFLITE)
