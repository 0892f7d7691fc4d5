"""Accuracy and loss against a computation by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lightexp.core.data import Data, Split
from lightexp.core.protocols import MeasurementContext
from lightexp.metrics.accuracy import Accuracy, compute_cross_entropy, compute_top_k
from tests.metrics import tiny


def test_figures_are_those_of_the_keras_model(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(tiny.flat("conv"))
    data = tiny.data("conv")
    found = {f.name: f for f in Accuracy(batch=10).measure(MeasurementContext(path, path, data, 1))}
    assert set(found) == {"accuracy/val", "accuracy/test", "loss/val", "loss/test"}
    for name, split in (("val", data.val), ("test", data.test)):
        outputs = tiny.keras("conv").predict(data.inputs(split.x), verbose=0).astype(float)
        likely = np.exp(outputs) / np.exp(outputs).sum(1, keepdims=True)
        right = np.mean([row.argmax() == label for row, label in zip(outputs, split.y, strict=True)])
        loss = -np.mean([np.log(row[label]) for row, label in zip(likely, split.y, strict=True)])
        assert found[f"accuracy/{name}"].value == right
        assert found[f"loss/{name}"].value == pytest.approx(loss, abs=1e-5)
        assert found[f"accuracy/{name}"].direction == "max" and found[f"loss/{name}"].direction == "min"
        assert found[f"accuracy/{name}"].split == found[f"loss/{name}"].split == name


def test_splits_that_may_not_be_looked_at_are_not(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(tiny.flat("dense"))
    data = tiny.data("dense")
    unseen = Split(np.empty((0, 1)), np.empty(0, np.int32))  # of another shape: to run it would fail
    hidden = Data("x", data.train, data.val, unseen, data.classes, data.scale, data.offset)
    found = Accuracy().measure(MeasurementContext(path, path, hidden, 1, splits=("val",)))
    assert [f.name for f in found] == ["accuracy/val", "loss/val"]


def test_loss_is_stable_for_large_logits() -> None:
    logits = np.array([[1e4, 0, -1e4], [-1e4, 0, 1e4]], np.float32)
    assert compute_cross_entropy(logits, np.array([0, 1], np.int32)) == pytest.approx(1e4 / 2)


def test_top_five_counts_labels_among_the_five_likeliest() -> None:
    logits = np.tile(np.arange(12, dtype=np.float32), (12, 1))
    assert compute_top_k(logits, np.arange(12, dtype=np.int32), 5) == 5 / 12


def test_top_five_is_measured_from_eleven_classes_on(tmp_path: Path) -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import tensorflow as tf
        import tf_keras

        net = tf_keras.Sequential([tf_keras.layers.Input((4,)), tf_keras.layers.Dense(11)])
        path = tmp_path / "m.tflite"
        path.write_bytes(tf.lite.TFLiteConverter.from_keras_model(net).convert())
    rng = np.random.default_rng(0)
    split = Split(rng.random((60, 4), dtype=np.float32), rng.integers(0, 11, 60).astype(np.int32))
    data = Data("eleven", split, split, split, 11)
    found = {f.name: f.value for f in Accuracy().measure(MeasurementContext(path, path, data, 1))}
    order = np.argsort(-net.predict(split.x, verbose=0), axis=1)[:, :5]
    assert found["accuracy/top5"] == pytest.approx(np.mean([y in row for y, row in zip(split.y, order, strict=True)]))
    assert found["accuracy/test"] < found["accuracy/top5"] < 1
