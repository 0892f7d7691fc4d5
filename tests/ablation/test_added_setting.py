"""A setting with a default is added to a class; what was made before still counts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from lightexp.core.record import Record
from tests.command_server import run_command
from tests.run_records import load_records
from tests.tiny_runs import TinyRuns

PATIENCE_S = 900  # a busy machine is no failure
MODEL = """
from dataclasses import dataclass
from typing import ClassVar

from lightexp.models.lenet_300_100 import LeNet300100


@dataclass(frozen=True)
class Own(LeNet300100):
    version: ClassVar[int] = 1
"""


class Ablation:
    """An ablation of one run with a plugin's model.

    Attributes:
        plugin: The plugin's module.
        extra: Overrides of the row.
    """

    def __init__(self, folder: Path) -> None:
        self.plugin = folder / "own_model.py"
        self.extra: list[str] = []
        self._folder = folder
        self._tiny = TinyRuns(folder)
        self._path = folder / "added.yaml"

    def ablate(self) -> str:
        """Run the command and return what it printed."""
        base = ["dataset=arrays", f"dataset.path={self._tiny.arrays}", f"paths.outputs={self._tiny.outputs}"]
        base += ["tracking=none", "measure=quick", "plugins=[own_model]", "model=lenet_300_100", "model.width=0.1"]
        base += ["model._target_=own_model.Own", "pipeline=control", "pipeline.stages.train.epochs=1", *self.extra]
        rows = {"control": ["pipeline.stages.train.batch_size=50"]}
        self._path.write_text(
            yaml.safe_dump({"claim": "None.", "control": "control", "seeds": [0], "base": base, "rows": rows})
        )
        environment = {**os.environ, "PYTHONPATH": f"{self._folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
        finished = run_command(["ablate", str(self._path)], self._folder, environment, PATIENCE_S)
        assert finished.returncode == 0, finished.stderr
        return finished.stdout + finished.stderr

    @property
    def records(self) -> list[Record]:
        """All runs so far."""
        return load_records(self._tiny.outputs)[0]


@pytest.fixture
def ablation(tmp_path: Path) -> Ablation:
    return Ablation(tmp_path)


def test_ablation_counts_runs_from_before_a_setting(ablation: Ablation) -> None:
    ablation.plugin.write_text(MODEL)
    ablation.ablate()
    [before] = ablation.records
    ablation.plugin.write_text(f"{MODEL}    added: float = 0.5\n")
    ablation.extra = ["+model.added=0.5"]
    printed = ablation.ablate()
    assert "1 of 1 runs are done, 0 to do" in printed
    assert "no finished run" not in printed  # the table has the row
    assert [record.id for record in ablation.records] == [before.id]
    ablation.extra = ["+model.added=0.75"]
    assert "0 of 1 runs are done, 1 to do" in ablation.ablate()
    after = ablation.records[-1]
    assert after.id != before.id
    assert after.stages[0].key != before.stages[0].key
