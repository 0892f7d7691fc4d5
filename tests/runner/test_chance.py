"""Tests of the warning of a control that is no better than chance."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lightexp.core.data import Data, Split
from lightexp.core.metrics import Metric
from lightexp.core.protocols import Artifact
from lightexp.core.record import StageRecord
from lightexp.runner.chance import describe_chance, find_chance_level, note_chance
from lightexp.runner.progress import SilentReporter
from lightexp.runner.run import Runner
from tests.tiny_runs import TinyRuns

LABELS = np.arange(100, dtype=np.int32) % 10


@pytest.mark.parametrize(("accuracy", "is_chance"), [(0.0, True), (0.15, True), (0.17, False), (0.9, False)])
def test_chance_level_is_the_share_of_the_largest_class(accuracy: float, is_chance: bool) -> None:
    split = Split(np.zeros((100, 1)), LABELS)
    data = Data("d", split, split, split, 10)
    assert find_chance_level(accuracy, LABELS, data) == (0.1 if is_chance else None)
    assert find_chance_level(accuracy, LABELS * 0, data) == 1.0
    assert find_chance_level(0.55, np.repeat(LABELS[:10] % 2, 4), data) == 0.5


@pytest.mark.parametrize(("accuracy", "is_chance"), [(0.09, True), (0.5, False)])
def test_file_at_chance_is_noted(accuracy: float, is_chance: bool) -> None:
    split = Split(np.zeros((100, 1)), LABELS)
    record = StageRecord("rate", "key", False, 0.0)
    record.metrics.append(Metric("accuracy/val", accuracy))
    note_chance(record, Data("d", split, split, split, 10), "the file after 'rate'")
    note = "the file after 'rate' is no better than always answering with one class, 10.0%"
    assert record.notes == ({"accuracy/val": note} if is_chance else {})


class Listener(SilentReporter):
    def __init__(self) -> None:
        self.messages: list[str] = []

    def say(self, message: str) -> None:
        self.messages.append(message)


@pytest.fixture(scope="module")
def bright(tiny_runs: TinyRuns, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a `.tflite` that finds the bright quarter of bytes, and nothing in inputs from 0 to 1."""
    from lightexp.backend.converter import convert_to_float32
    from lightexp.backend.session import import_keras

    kl = import_keras().layers
    model = import_keras().Sequential([kl.Input((8, 8, 1)), kl.AveragePooling2D(4), kl.Flatten(), kl.Dense(4, "relu")])
    model.set_weights([np.eye(4, dtype=np.float32), np.full(4, -120, np.float32)])
    path = tmp_path_factory.mktemp("bright") / "bright.tflite"
    path.write_bytes(convert_to_float32(model))
    return path


def test_run_says_which_range_a_file_needs(bright: Path, tiny_runs: TinyRuns) -> None:
    listener = Listener()
    overrides = ["pipeline=control", "model=from_file", f"model.path={bright}"]
    record = Runner(listener).run(tiny_runs.compose_settings(*overrides), overrides)
    (warning,) = [message for message in listener.messages if "no better" in message]
    assert "file: its validation accuracy, 25.0%, is no better than always answering with one class, 25.0%" in warning
    assert "With dataset.scaling.range=[0,255] it is 100.0%: set that" in warning
    assert record.notes["accuracy/val"] == "the control is no better than always answering with one class, 25.0%"
    listener.messages.clear()
    Runner(listener).run(tiny_runs.compose_settings(*overrides), overrides)  # which takes the control from the store
    assert warning in listener.messages
    listener.messages.clear()
    overrides.append("dataset.scaling.range=[0,255]")
    record = Runner(listener).run(tiny_runs.compose_settings(*overrides), overrides)
    assert record.metrics["accuracy/val"] == 1.0
    assert not record.notes
    assert not [message for message in listener.messages if "no better" in message]


def test_advice_fits_the_data(bright: Path, tiny_runs: TinyRuns) -> None:
    data: Data = tiny_runs.plan()[1]
    artifact = Artifact("tflite", bright.parent, {}, "key", foreign=False)
    bright.with_name("model.tflite").write_bytes(bright.read_bytes())
    shuffled = replace(data.val, y=np.roll(data.val.y, 1))
    wrong_labels = describe_chance(artifact, replace(data, val=shuffled), 1)
    assert wrong_labels is not None
    assert "No usual dataset.scaling.range helps" in wrong_labels
    floats = describe_chance(artifact, replace(data, val=replace(data.val, x=data.val.x / np.float32(255))), 1)
    assert floats is not None
    assert "Try dataset.scaling.mean" in floats
    trained = replace(artifact, facts={"history": {"val_accuracy": [0.9, 0.2]}})
    assert "Train longer" in str(describe_chance(trained, data, 1))
    assert describe_chance(replace(artifact, facts={"history": {"val_accuracy": [0.2, 0.9]}}), data, 1) is None
