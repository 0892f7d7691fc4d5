"""Tests of accuracy and loss, against a computation by hand."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from lightexp.core.data import Data, Split
from lightexp.core.protocols import MeasurementContext
from lightexp.metrics.accuracy import Accuracy
from lightexp.tasks.probabilities import compute_cross_entropy, compute_top_k
from tests.metrics import tiny_models


def test_metrics_equal_those_of_keras_model(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(tiny_models.make_tflite("conv"))
    data = tiny_models.make_data("conv")
    metrics = {metric.name: metric for metric in Accuracy(batch=10).measure(MeasurementContext(path, path, data, 1))}
    assert set(metrics) == set(data.task.metrics) - {"accuracy/top5"}  # of more classes
    for name, split in (("val", data.val), ("test", data.test)):
        outputs = tiny_models.make_keras("conv").predict(data.inputs(split.x), verbose=0).astype(float)
        probabilities = np.exp(outputs) / np.exp(outputs).sum(1, keepdims=True)
        accuracy = np.mean([row.argmax() == label for row, label in zip(outputs, split.y, strict=True)])
        loss = -np.mean([np.log(row[label]) for row, label in zip(probabilities, split.y, strict=True)])
        assert metrics[f"accuracy/{name}"].value == accuracy
        assert metrics[f"loss/{name}"].value == pytest.approx(loss, abs=1e-5)
        assert metrics[f"accuracy/{name}"].direction == "max"
        assert metrics[f"loss/{name}"].direction == "min"
        assert metrics[f"accuracy/{name}"].split == metrics[f"loss/{name}"].split == name


def test_hidden_split_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(tiny_models.make_tflite("dense"))
    data = tiny_models.make_data("dense")
    unreadable = Split(np.empty((0, 1)), np.empty(0, np.int32))  # of another shape, so that running it would fail
    hidden = Data("x", data.train, data.val, unreadable, data.classes, data.scale, data.offset)
    metrics = Accuracy().measure(MeasurementContext(path, path, hidden, 1, splits=("val",)))
    assert {"accuracy/val", "loss/val"} <= {metric.name for metric in metrics}
    assert all(metric.split == "val" and metric.name.endswith("/val") for metric in metrics)


def test_cross_entropy_of_large_logits_is_finite() -> None:
    logits = np.array([[1e4, 0, -1e4], [-1e4, 0, 1e4]], np.float32)
    assert compute_cross_entropy(logits, np.array([0, 1], np.int32)) == pytest.approx(1e4 / 2)


def test_top_k_counts_labels_among_the_k_likeliest() -> None:
    logits = np.tile(np.arange(12, dtype=np.float32), (12, 1))
    assert compute_top_k(logits, np.arange(12, dtype=np.int32), 5) == 5 / 12


def test_top5_is_measured_with_more_than_ten_classes(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import tensorflow as tf
        import tf_keras

        model = tf_keras.Sequential([tf_keras.layers.Input((4,)), tf_keras.layers.Dense(11)])
        path = tmp_path / "m.tflite"
        path.write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    rng = np.random.default_rng(0)
    split = Split(rng.random((60, 4), dtype=np.float32), rng.integers(0, 11, 60).astype(np.int32))
    data = Data("eleven", split, split, split, 11)
    values = {metric.name: metric.value for metric in Accuracy().measure(MeasurementContext(path, path, data, 1))}
    top5 = np.argsort(-model.predict(split.x, verbose=0), axis=1)[:, :5]
    expected = np.mean([label in row for label, row in zip(split.y, top5, strict=True)])
    assert values["accuracy/top5"] == pytest.approx(expected)
    assert values["accuracy/test"] < values["accuracy/top5"] < 1
