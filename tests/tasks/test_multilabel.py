"""Tests of the multi-label task: metrics against scikit-learn, losses, labels made from classes, refusals, runs."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as reference

from lightexp.core.data import Data
from lightexp.core.errors import BadInput
from lightexp.tasks.multilabel import Multilabel
from tests.tasks.examples import make_data
from tests.tasks.runs import TaskRuns

RNG = np.random.default_rng(0)
TARGETS = (RNG.random((200, 3)) < [0.5, 0.2, 0.7]).astype(np.float32)
LOGITS = (RNG.normal(0, 1, (200, 3)) + 2 * TARGETS - 1).astype(np.float32)
DATA = make_data(TARGETS, classes=0)
CLASSES = replace(make_data(np.arange(30, dtype=np.int32) % 3, classes=3), names=("cat", "dog", "car"))
MEASURES = ["measure=default", "~measure.latency", "~measure.micro", "~measure.entropy"]


def test_metrics_equal_those_of_scikit_learn() -> None:
    values = {metric.name: metric.value for metric in Multilabel(threshold=0.6).measure({"val": LOGITS}, DATA)}
    assert {f"{name.split('/')[0]}/val" for name in Multilabel().metrics} == set(values)
    probabilities = 1 / (1 + np.exp(-LOGITS.astype(float)))
    given = probabilities >= 0.6
    for suffix, average in {"": "macro", "_micro": "micro"}.items():
        expected = reference.average_precision_score(TARGETS, LOGITS, average=average)
        assert values[f"average_precision{suffix}/val"] == pytest.approx(expected)
        assert values[f"f1{suffix}/val"] == pytest.approx(reference.f1_score(TARGETS, given, average=average))
    assert values["subset_accuracy/val"] == reference.accuracy_score(TARGETS, given)
    assert values["loss/val"] == pytest.approx(
        np.mean([reference.log_loss(TARGETS[:, label], probabilities[:, label]) for label in range(3)])
    )


def test_metrics_of_many_examples_are_fast() -> None:
    targets = (np.random.default_rng(1).random((100_000, 3)) < 0.3).astype(np.float32)
    outputs, data = (
        np.random.default_rng(2).normal(size=targets.shape).astype(np.float32),
        make_data(targets, classes=0),
    )
    start = time.process_time()
    Multilabel().measure({"val": outputs}, data)
    assert time.process_time() - start < 0.6  # 0.1 s on an idle core


@pytest.mark.parametrize("primary", ["average_precision", "average_precision_micro", "f1", "f1_micro"])
def test_chance_is_the_metric_of_giving_all_labels(primary: Any) -> None:
    task = Multilabel(primary=primary)
    level = task.compute_chance(TARGETS, DATA)
    assert level == pytest.approx(task.compute_primary(np.ones_like(LOGITS), TARGETS, DATA))
    assert task.describe_primary(DATA).reference == level < task.compute_primary(LOGITS, TARGETS, DATA)


def test_chance_of_subset_accuracy_is_the_commonest_set() -> None:
    targets = np.array([[0, 1], [0, 1], [1, 1], [0, 0]], np.float32)
    assert Multilabel(primary="subset_accuracy").compute_chance(targets, DATA) == 0.5


def test_rare_label_may_be_absent_from_a_sample() -> None:
    targets = TARGETS * [1, 0, 1]
    expected = reference.average_precision_score(targets[:, [0, 2]], LOGITS[:, [0, 2]])
    assert Multilabel().compute_primary(LOGITS, targets, DATA) == pytest.approx(expected)


def test_labels_are_made_from_classes() -> None:
    data = Multilabel(labels={"animal": ["cat", 1], "vehicle": ["car"], "pet": ["cat"]}).prepare(CLASSES)
    assert (data.names, data.classes, data.outputs) == (("animal", "vehicle", "pet"), 0, 3)
    np.testing.assert_array_equal(data.val.y[:3], [[1, 0, 1], [1, 0, 0], [0, 1, 0]])


@pytest.mark.parametrize(
    ("task", "data", "message"),
    [
        (Multilabel(), CLASSES, "Received: one of 3 classes for each example of known. Say task=classification"),
        (
            Multilabel(labels={"a": ["cow"]}),
            CLASSES,
            "task.labels.a: known has no class cow: choose from: car, cat, dog",
        ),
        (Multilabel(labels={"a": [3]}), CLASSES, "task.labels.a: known has no class 3. It has 3, from 0."),
        (Multilabel(labels={"a": [0]}), DATA, "makes labels from classes, which known has not."),
        (Multilabel(), make_data(TARGETS + 1, classes=0), "Received: 2 in the train split of known. To learn numbers"),
        (Multilabel(), make_data(TARGETS, TARGETS * [1, 0, 1], classes=0), "label number 1 of known is always 0 in"),
        (Multilabel(labels={"all": [0, 1, 2]}), CLASSES, "label all of known is always 1 in the train split."),
    ],
)
def test_unusable_targets_are_refused(task: Multilabel, data: Data, message: str) -> None:
    with pytest.raises(BadInput, match=message.replace(".", r"\.")):
        task.prepare(data)


@pytest.mark.usefixtures("tensorflow")
def test_losses_equal_formulas() -> None:
    targets, logits, teacher = TARGETS[:5], LOGITS[:5], -LOGITS[:5]
    p, q = 1 / (1 + np.exp(-logits.astype(float))), 1 / (1 + np.exp(-teacher.astype(float)))
    expected = -np.where(targets == 1, np.log(p), np.log(1 - p)).mean(axis=1)
    np.testing.assert_allclose(Multilabel().compute_loss(logits, targets), expected, rtol=1e-4)
    divergence = (q * np.log(q / p) + (1 - q) * np.log((1 - q) / (1 - p))).mean(axis=1)
    np.testing.assert_allclose(Multilabel().compute_soft_loss([teacher], logits, 1.0), divergence, rtol=1e-3)
    right = int(Multilabel(threshold=0.7).score_examples(logits, targets, DATA))
    assert right == int(np.sum(((p >= 0.7) == targets).all(axis=1)))


def test_columns_of_a_users_file_are_learnt(task_runs: TaskRuns, tmp_path: Path) -> None:
    x = RNG.normal(size=(300, 4)).astype(np.float32)
    np.savez(tmp_path / "tags.npz", x=x, y=np.stack([x[:, 0] > 0, x[:, 1] > 0.5], axis=1))
    file = ["dataset=arrays", f"dataset.path={tmp_path / 'tags.npz'}"]
    record = task_runs.run("task=multilabel", *file, *MEASURES, "pipeline=quantize", epochs=20)
    assert record.metrics["average_precision/test"] > 0.9
    assert {"fidelity/agreement", "fidelity/kl_test", "calibration/ece"} <= set(record.metrics)
    assert not any(name.startswith("accuracy/class") for name in record.metrics)
    assert record.dataset["labels"] == ["0", "1"]
