"""Tests of the binary task: its threshold, its metrics against scikit-learn, its losses, its refusals, a run."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as reference

from lightexp.core.errors import BadInput
from lightexp.core.metrics import Metric, Note
from lightexp.datasets.sklearn import Sklearn
from lightexp.tasks.binary import Binary
from tests.tasks.examples import make_data
from tests.tasks.runs import TaskRuns

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 2, 300).astype(np.int32)
LOGITS = (RNG.normal(0, 1, (300, 1)) + 1.5 * LABELS[:, None] + 2).astype(np.float32)
DATA = make_data(LABELS, LABELS, LABELS[::-1].copy())


def measure(task: Binary, **outputs: Any) -> dict[str, float]:
    results = task.measure(outputs, DATA)  # type: ignore[arg-type]
    return {metric.name: metric.value for metric in results if isinstance(metric, Metric)}


def test_metrics_equal_those_of_scikit_learn() -> None:
    test_logits = LOGITS[::-1] + 0.3
    values = measure(Binary(fpr=0.1), val=LOGITS, test=test_logits)
    assert set(values) == set(Binary().metrics)
    threshold = np.log(values["threshold/val"] / (1 - values["threshold/val"]))
    accuracies = [np.mean((LOGITS[:, 0] >= cut) == LABELS) for cut in np.sort(LOGITS[:, 0])]
    assert values["accuracy/val"] == max(accuracies) > np.mean((LOGITS[:, 0] >= 0) == LABELS)
    labels, scores = LABELS[::-1], test_logits[:, 0]
    assert values["accuracy/test"] == reference.accuracy_score(labels, scores >= threshold)
    assert values["f1/test"] == reference.f1_score(labels, scores >= threshold)
    assert values["auc/test"] == reference.roc_auc_score(labels, scores)
    assert values["average_precision/test"] == reference.average_precision_score(labels, scores)
    allowed = [np.mean(scores[labels == 0] >= cut) <= 0.1 for cut in scores]
    recalls = [np.mean(scores[labels == 1] >= cut) for cut in scores]
    assert values["recall_at_fpr/test"] == max(r for r, is_allowed in zip(recalls, allowed, strict=True) if is_allowed)
    probabilities = 1 / (1 + np.exp(-scores.astype(float)))
    assert values["loss/test"] == pytest.approx(reference.log_loss(labels, probabilities))


def test_equal_scores_are_not_separated_by_a_threshold() -> None:
    logits = np.array([[2.0], [2.0], [-1.0], [-1.0]], np.float32)
    data = make_data(np.array([1, 0, 0, 0], np.int32))
    values = {m.name: m.value for m in Binary().measure({"val": logits}, data) if isinstance(m, Metric)}
    assert values["accuracy/val"] == 0.75
    assert Binary(primary="f1").compute_primary(logits, data.val.y, data) == pytest.approx(2 / 3)


def test_fixed_threshold_is_used() -> None:
    values = measure(Binary(threshold=0.9), val=LOGITS)
    assert values["threshold/val"] == pytest.approx(0.9)
    assert values["accuracy/val"] == np.mean((LOGITS[:, 0] >= np.log(9)) == LABELS)
    predicted = Binary(threshold=0.9).predict_classes({"val": LOGITS}, DATA)["val"]
    np.testing.assert_array_equal(predicted, LOGITS[:, 0] >= np.log(9))


def test_threshold_without_positives_is_noted() -> None:
    def list_notes(task: Binary) -> list[Note]:
        return [result for result in task.measure({"val": LOGITS}, DATA) if isinstance(result, Note)]

    assert list_notes(Binary(threshold=0.9999)) == [
        Note("f1/val", "no example counts as positive at the threshold 0.9999")
    ]
    assert list_notes(Binary()) == []


def test_chance_is_the_metric_of_constant_answers() -> None:
    labels = np.array([1, 0, 0, 0], np.int32)
    constant = np.zeros((4, 1), np.float32)
    for primary in ("accuracy", "auc", "average_precision", "f1"):
        task = Binary(primary=primary, threshold=0.5 if primary == "f1" else None)  # type: ignore[arg-type]
        data = make_data(labels)
        assert task.compute_chance(labels, data) == task.compute_primary(constant, labels, data)


def test_auc_of_many_examples_is_fast() -> None:
    labels = np.random.default_rng(1).integers(0, 2, 100_000).astype(np.int32)
    outputs = np.random.default_rng(2).normal(size=(100_000, 1)).astype(np.float32)
    data = make_data(labels)
    start = time.process_time()
    Binary().measure({"val": outputs}, data)
    assert time.process_time() - start < 0.6  # 0.15 s on an idle core


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (make_data(np.arange(3, dtype=np.int32), classes=3), "Received: 3 classes in known. Say task=classification"),
        (make_data(np.ones((3, 1), np.float32), classes=0), "Received: numbers in known. Say task=regression"),
        (make_data(LABELS, np.ones(3, np.int32)), "the val split of known holds one class only, 1."),
    ],
)
def test_other_targets_are_refused(data: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message.replace(".", r"\.")):
        Binary().prepare(data)


@pytest.mark.usefixtures("tensorflow")
def test_losses_equal_formulas() -> None:
    labels, logits, teacher = LABELS[:5], LOGITS[:5], -LOGITS[:5]
    p, q = 1 / (1 + np.exp(-logits[:, 0].astype(float))), 1 / (1 + np.exp(-teacher[:, 0].astype(float)))
    weighted = np.where(labels == 1, -3 * np.log(p), -np.log(1 - p))
    np.testing.assert_allclose(Binary(pos_weight=3.0).compute_loss(logits, labels), weighted, rtol=1e-4)
    divergence = q * np.log(q / p) + (1 - q) * np.log((1 - q) / (1 - p))
    np.testing.assert_allclose(Binary().compute_soft_loss([teacher], logits, 1.0), divergence, rtol=1e-3)
    assert int(Binary().score_examples(logits, labels, DATA)) == int(np.sum((logits[:, 0] > 0) == labels))


def test_distilled_pruned_and_quantized_run(task_runs: TaskRuns) -> None:
    record = task_runs.run("task=binary", "task.primary=auc", "pipeline=distill_prune_quantize", "measure=default")
    assert record.status == "done"
    assert 0.9 < record.metrics["auc/test"] <= 1
    assert record.dataset["primary"]["name"] == "auc" and record.dataset["classes"] == 2
    assert {"fidelity/agreement", "calibration/ece", "accuracy/class/malignant"} <= set(record.metrics)
    outputs = task_runs.read_graph(record)
    assert outputs.tensors[outputs.outputs[0]].shape[1:] == (1,)


def test_keras_file_with_a_sigmoid_is_trained_further(task_runs: TaskRuns, tmp_path: Path) -> None:
    from lightexp.backend.session import import_keras, reset_graph

    reset_graph(0)
    table = Sklearn().load()
    layers = import_keras().layers
    model = import_keras().Sequential([layers.Input((30,)), layers.Dense(8, "relu"), layers.Dense(1, "sigmoid")])
    model.compile("adam", "binary_crossentropy")
    model.fit(table.inputs(table.train.x), table.train.y, epochs=12, verbose=0)
    model.save(tmp_path / "net.keras")
    overrides = ["task=binary", "model=from_file", f"model.path={tmp_path / 'net.keras'}", "pipeline=prune"]
    record = task_runs.run(*overrides)
    probabilities = model.predict(table.inputs(table.val.x), verbose=0)[:, 0]
    assert record.stages[0].metric("auc/val") == pytest.approx(reference.roc_auc_score(table.val.y, probabilities))
    assert not task_runs.read_graph(record).ends_in("sigmoid")
    assert record.metrics["auc/test"] > 0.9
