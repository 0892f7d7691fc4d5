"""Tests of the classification task: metrics against scikit-learn, primary metrics, a run that chooses by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn import metrics as reference

from lightexp.core.task import make_default_task
from lightexp.tasks.classification import Classification
from tests.tasks.examples import make_data
from tests.tasks.runs import TaskRuns

RNG = np.random.default_rng(0)
LABELS = RNG.choice(12, 400, p=[0.45, *[0.05] * 11]).astype(np.int32)
LOGITS = (RNG.normal(0, 1, (400, 12)) + 2 * np.eye(12)[LABELS]).astype(np.float32)
DATA = make_data(LABELS, LABELS, LABELS[::-1].copy(), classes=12)
PRIMARIES = ("accuracy", "balanced_accuracy", "f1_macro")


def test_metrics_equal_those_of_scikit_learn() -> None:
    test_logits = LOGITS[::-1] * 0.5
    task = Classification()
    values = {metric.name: metric.value for metric in task.measure({"val": LOGITS, "test": test_logits}, DATA)}
    assert set(values) == set(task.metrics)
    for split, logits in (("val", LOGITS), ("test", test_logits)):
        labels, predictions = DATA.splits[split].y, logits.argmax(axis=1)
        assert values[f"accuracy/{split}"] == reference.accuracy_score(labels, predictions)
        assert values[f"balanced_accuracy/{split}"] == pytest.approx(
            reference.balanced_accuracy_score(labels, predictions)
        )
        assert values[f"f1_macro/{split}"] == pytest.approx(reference.f1_score(labels, predictions, average="macro"))
    assert values["accuracy/top5"] == reference.top_k_accuracy_score(LABELS[::-1], test_logits, k=5)


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")  # of the reference
def test_classes_without_examples_count_as_in_scikit_learn() -> None:
    labels, logits = np.array([0, 0, 1, 1], np.int32), np.eye(5, dtype=np.float32)[[0, 4, 1, 0]]
    data = make_data(labels, classes=5)
    values = {m.name: m.value for m in Classification().measure({"val": logits}, data)}
    predictions = logits.argmax(axis=1)
    assert values["balanced_accuracy/val"] == reference.balanced_accuracy_score(labels, predictions) == 0.5
    assert values["f1_macro/val"] == pytest.approx(reference.f1_score(labels, predictions, average="macro"))


@pytest.mark.parametrize("primary", PRIMARIES)
def test_chance_is_the_metric_of_the_most_frequent_class(primary: Any) -> None:
    task, constant = Classification(primary), np.zeros((400, 12), np.float32)
    assert np.bincount(LABELS).argmax() == 0
    assert task.compute_primary(constant, LABELS, DATA) == pytest.approx(task.compute_chance(LABELS, DATA))
    assert task.describe_primary(DATA).name == primary


def test_default_primary_leaves_keys_as_they_were() -> None:
    assert Classification() == make_default_task()
    assert "task" not in DATA.key
    assert make_data(LABELS, classes=12).key == DATA.key


def test_primary_decides_the_best_epoch(task_runs: TaskRuns) -> None:
    iris = ["dataset.name=iris", "pipeline=control", "pipeline.stages.train.early_stopping=4"]
    record = task_runs.run(*iris, "task.primary=balanced_accuracy", epochs=40)
    control = record.stages[0]
    curves = control.facts["history"]
    best = int(np.argmax(curves["val_balanced_accuracy"]))
    assert int(np.argmin(curves["val_loss"])) > best  # by the loss, training would have gone on
    assert len(curves["val_loss"]) == best + 1 + 4
    assert control.metric("balanced_accuracy/val") == pytest.approx(curves["val_balanced_accuracy"][best])
    assert record.dataset["primary"]["name"] == "balanced_accuracy"
