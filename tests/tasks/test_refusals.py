"""Tests that data which do not fit the task are refused in one line, before TensorFlow is imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

N = 60
TARGETS: dict[str, Any] = {
    "floats": np.linspace(0.5, 9.5, N),
    "three": np.arange(N) % 3,
    "signs": np.where(np.arange(N) % 2, 1, -1),
    "one": np.zeros(N, int),
    "rare": (np.arange(N) == 5).astype(int),
    "constant": np.full(N, 7.5),
    "nan": np.where(np.arange(N) == 5, np.nan, np.linspace(0, 1, N)),
    "columns": np.stack([np.linspace(0.5, 9.5, N), np.full(N, 3.0)], axis=1),
    "words": np.where(np.arange(N) % 2, "yes", "no"),
}
"""Targets of `x`, each in a file of its own."""
REFUSALS: dict[tuple[str, str], str] = {
    ("classification", "floats"): "To learn numbers, say task=regression",
    ("classification", "columns"): "say task=regression",
    ("classification", "one"): "holds one class only",
    ("binary", "floats"): "To learn numbers, say task=regression",
    ("binary", "three"): "task=binary needs labels 0 and 1. Received: 3 classes in three. Say task=classification",
    ("binary", "signs"): "Number the classes from 0",
    ("binary", "one"): "holds one class only",
    ("binary", "rare"): "split of rare holds one class only",
    ("regression", "constant"): "target 0 of constant is constant in the train split, 7.5",
    ("regression", "columns"): "target 1 of columns is constant in the train split, 3",
    ("regression", "nan"): "y holds [nan] in row 5",
    ("regression", "words"): "task=regression learns numbers",
    ("multilabel", "three"): "say task=classification or set task.labels",
    ("multilabel", "columns"): "y holds [0.5, 3.0] in row 0. task=multilabel takes a 0 or 1 for each label; to learn",
    ("reconstruction", "three"): "which of the 3 classes of three are normal? Set task.normal=[CLASS, ...]",
    ("reconstruction", "floats"): "To learn numbers, say task=regression",
}
"""What is refused, by task and targets, and a part of the message."""
SCRIPT = """
import json, sys
from lightexp.core.errors import BadInput
from lightexp.runner.compose import compose_settings
from lightexp.runner.progress import SilentReporter
from lightexp.runner.run import Runner
messages = []
for overrides in json.loads(sys.argv[1]):
    try:
        Runner(SilentReporter()).plan(compose_settings(overrides))
        messages.append("accepted")
    except BadInput as error:
        messages.append(str(error))
assert not {"tensorflow", "ai_edge_litert"} & set(sys.modules)
print(json.dumps(messages))
"""


@pytest.fixture(scope="module")
def messages(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], str]:
    """Return the message of each pair of task and targets, all from one process."""
    folder = tmp_path_factory.mktemp("targets")
    x = np.random.default_rng(0).normal(size=(N, 4)).astype(np.float32)
    for name, y in TARGETS.items():
        np.savez(folder / f"{name}.npz", x=x, y=y)
    shared = ["dataset=arrays", "model=mlp", "tracking=none", f"paths.outputs={folder}"]
    overrides = [[*shared, f"task={task}", f"dataset.path={folder}/{name}.npz"] for task, name in REFUSALS]
    command = [sys.executable, "-c", SCRIPT, json.dumps(overrides)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False)
    assert result.returncode == 0, result.stderr
    return dict(zip(REFUSALS, json.loads(result.stdout), strict=True))


@pytest.mark.parametrize(("task", "targets"), REFUSALS)
def test_targets_are_refused_in_one_line(task: str, targets: str, messages: dict[tuple[str, str], str]) -> None:
    message = messages[task, targets]
    assert REFUSALS[task, targets] in message
    assert "\n" not in message
