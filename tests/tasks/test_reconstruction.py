"""Tests of the reconstruction task: its metrics against scikit-learn, normal examples, refusals, runs."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as reference

from lightexp.cli import export
from lightexp.core.data import Data, Split
from lightexp.core.errors import BadInput
from lightexp.core.metrics import Metric, Note
from lightexp.core.preprocessing import Augment
from lightexp.tasks.reconstruction import Reconstruction
from tests.tasks.examples import make_data
from tests.tasks.runs import TaskRuns

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (60, 2, 3, 1)).astype(np.uint8)
Y = np.arange(60, dtype=np.int32) % 3
GROUPS = np.array(["id_0", "id_2"])[np.arange(60) // 30]
RAW = Data("known", Split(X, Y), Split(X, Y), Split(X, Y, GROUPS), 3, scale=1 / 255, names=("ok", "worn", "broken"))
FIDELITY = ["+measure.fidelity={_target_: lightexp.metrics.fidelity.Fidelity}"]
MICRO = ["+measure.micro={_target_: lightexp.metrics.micro.Micro, boards: {}}"]
DIGITS = ["dataset=digits", "task=reconstruction", "task.normal=[0]"]
SMALL = ["model=autoencoder", "model.hidden=[32]"]


def test_only_normal_examples_are_learnt() -> None:
    data = Reconstruction(normal=["ok", 1]).prepare(RAW)
    np.testing.assert_array_equal(data.train.x, X[Y != 2])
    assert (len(data.val), len(data.test), data.val.y.any(), data.classes, data.names) == (40, 60, False, 0, ())
    np.testing.assert_array_equal(data.test.y, Y == 2)
    assert data.outputs == 6
    assert "Left out of the train split, as only normal examples are learnt: 20." in data.notes
    np.testing.assert_allclose(data.compute_targets(data.test), X.reshape(60, 6) / np.float32(255), rtol=1e-6)


def test_first_of_two_classes_is_normal() -> None:
    data = Reconstruction().prepare(replace(make_data(Y % 2), names=("fine", "defect")))
    np.testing.assert_array_equal(data.test.y, Y % 2)
    assert data.notes[0] == "Examples of fine are normal, those of defect anomalous."


@pytest.mark.parametrize("y", [np.full(60, -1, np.int32), np.zeros((60, 2), np.float32)])
def test_examples_without_labels_are_normal(y: Any) -> None:
    data = Reconstruction().prepare(make_data(y, classes=0))
    assert len(data.train) == 60 and not data.test.y.any()
    assert "No test example is known to be anomalous" in data.notes[-1]


def test_metrics_equal_those_of_scikit_learn() -> None:
    data = Reconstruction(normal=[0, 1], max_fpr=0.2).prepare(RAW)
    targets = data.compute_targets(data.test)
    outputs = targets + RNG.normal(0, 0.1, targets.shape).astype(np.float32) * (1 + data.test.y[:, None])
    values = {m.name: m.value for m in data.task.measure({"test": outputs}, data) if isinstance(m, Metric)}
    errors, labels = np.square(outputs - targets).mean(axis=1), data.test.y
    assert values["mse/test"] == pytest.approx(errors[labels == 0].mean(), rel=1e-5)
    assert values["auc/test"] == pytest.approx(reference.roc_auc_score(labels, errors))
    assert values["partial_auc/test"] == pytest.approx(reference.roc_auc_score(labels, errors, max_fpr=0.2))
    for group in ("id_0", "id_2"):
        rows = group == GROUPS
        expected = reference.roc_auc_score(labels[rows], errors[rows])
        assert values[f"auc/group_test/{group}"] == pytest.approx(expected)
        assert f"partial_auc/group_test/{group}" in values
    validation = data.task.measure({"val": data.compute_targets(data.val)}, data)
    assert [(m.name, m.value) for m in validation if isinstance(m, Metric)] == [("mse/val", 0.0)]


def test_group_of_one_kind_has_a_note() -> None:
    data = Reconstruction(normal=[0, 1]).prepare(RAW)
    groups = np.where(data.test.y == 1, "bad", "mixed")
    groups[:6] = "mixed"
    data = replace(data, test=replace(data.test, groups=groups))
    results = data.task.measure({"test": data.compute_targets(data.test)}, data)
    [note] = [result for result in results if isinstance(result, Note)]
    assert note.name == "auc/group_test/bad"
    assert "auc/group_test/mixed" in {result.name for result in results}


def test_chance_is_the_error_of_the_mean() -> None:
    data = Reconstruction(normal=[0]).prepare(RAW)
    targets = data.compute_targets(data.val)
    assert data.task.describe_primary(data).reference == pytest.approx(targets.var(axis=0).mean(), rel=1e-4)


def test_auc_of_many_examples_is_fast() -> None:
    data = make_data((np.arange(100_000) % 7 == 0).astype(np.int32))
    data = Reconstruction().prepare(replace(data, test=Split(RNG.random((100_000, 8), np.float32), data.test.y)))
    outputs = data.compute_targets(data.test) + RNG.random((100_000, 8), np.float32)
    start = time.process_time()
    data.task.measure({"test": outputs}, data)
    assert time.process_time() - start < 0.6  # 0.1 s on an idle core


@pytest.mark.parametrize(
    ("task", "data", "message"),
    [
        (Reconstruction(), RAW, r"which of the 3 classes of known are normal\? Set task\.normal=\[CLASS"),
        (Reconstruction(normal=["good"]), RAW, r"task\.normal: known has no class good"),
        (Reconstruction(normal=[0]), make_data(np.zeros((9, 1))), r"task\.normal names classes, which known has not"),
        (Reconstruction(normal=[1]), make_data(np.zeros(9, np.int32)), "the train split of known holds no normal"),
        (Reconstruction(), replace(RAW, augment=Augment(mixup=0.2)), "mixup mixes targets"),
    ],
)
def test_unusable_data_are_refused(task: Reconstruction, data: Data, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        task.prepare(replace(data, classes=0) if data.train.y.ndim == 2 else data)


@pytest.mark.usefixtures("tensorflow")
def test_losses_equal_formulas() -> None:
    outputs, targets = np.array([[3.0, 0.5]], np.float32), np.array([[1.0, 0.0]], np.float32)
    for loss, expected in {"mse": (4 + 0.25) / 2, "mae": (2 + 0.5) / 2}.items():
        task = Reconstruction(loss=loss)  # type: ignore[arg-type]
        np.testing.assert_allclose(task.compute_loss(outputs, targets), [expected], rtol=1e-6)
        teachers = [targets + 1, targets - 1]
        np.testing.assert_allclose(task.compute_soft_loss(teachers, outputs, 4.0), [expected], rtol=1e-6)
    assert float(Reconstruction().score_examples(outputs, targets, RAW)) == pytest.approx(2.125)


def test_odd_digits_are_found_by_an_int8_file(task_runs: TaskRuns) -> None:
    stages = ["pipeline=quantize", "pipeline.stages.quantize.scheme=int8", "pipeline.stages.train.batch_size=4"]
    record = task_runs.run(*DIGITS, *SMALL, *stages, *FIDELITY, epochs=15)
    assert record.metrics["auc/test"] > 0.95 and record.metrics["partial_auc/test"] > 0.8
    control = record.stages[0]
    assert control.metric("mse/val") == pytest.approx(control.facts["history"]["val_mse"][-1], rel=1e-3)
    assert record.metrics["mse/val"] < record.dataset["primary"]["reference"]
    assert 0 < record.metrics["fidelity/rmse"] < 0.2 * record.dataset["primary"]["reference"] ** 0.5
    assert record.metrics["fidelity/clipped"] < 0.001
    graph = task_runs.read_graph(record)
    assert graph.tensors[graph.outputs[0]].shape == (1, 64)


def test_file_with_labels_of_test_examples_only(task_runs: TaskRuns, tmp_path: Path) -> None:
    normal, odd = RNG.normal(0, 1, (200, 1)) * [1, 2, 3, 4], RNG.normal(0, 4, (40, 4))
    x, x_test = normal[:120].astype(np.float32), np.concatenate([normal[120:], odd]).astype(np.float32)
    y_test, groups = np.repeat([0, 1], [80, 40]), np.arange(120) % 2
    np.savez(tmp_path / "machine.npz", x_train=x, x_test=x_test, y_test=y_test, groups_test=groups)
    file = ["dataset=arrays", f"dataset.path={tmp_path / 'machine.npz'}", "task=reconstruction"]
    record = task_runs.run(*file, "model=mlp", "pipeline=control", "pipeline.stages.train.batch_size=8", epochs=10)
    assert record.metrics["auc/test"] > 0.6
    assert {"auc/group_test/0", "partial_auc/group_test/1"} <= set(record.metrics)
    assert record.dataset["splits"]["train"]["n"] == 96


def test_mlperf_tiny_autoencoder_runs_on_tflite_micro(task_runs: TaskRuns, tmp_path: Path) -> None:
    mixing = RNG.normal(0, 1, (4, 640))  # normal examples lie near a plane of four dimensions
    normal = RNG.normal(0, 1, (300, 4)) @ mixing + RNG.normal(0, 0.1, (300, 640))
    odd = normal[240:] + RNG.normal(0, 1, (60, 640))
    x_test, y_test = np.concatenate([normal[240:], odd]), np.repeat([0, 1], 60)
    x = {"x_train": normal[:200], "x_val": normal[200:240], "x_test": x_test}
    arrays: dict[str, Any] = {name: values.astype(np.float32) for name, values in x.items()}
    np.savez(tmp_path / "toycar.npz", y_test=y_test, groups_test=np.array(["id_1", "id_2"] * 60), **arrays)
    file = ["dataset=arrays", f"dataset.path={tmp_path / 'toycar.npz'}", "task=reconstruction", "model=autoencoder"]
    stages = ["pipeline=prune", "+stage@pipeline.stages.qat=qat", "pipeline.order=[train,prune,qat]"]
    steps = [f"pipeline.stages.{stage}.batch_size=5" for stage in ("train", "prune", "qat")]
    record = task_runs.run(*file, *stages, *steps, *FIDELITY, *MICRO, epochs=4)
    folder = task_runs.outputs / "runs" / record.id
    assert "AUC test" in (folder / record.files["table"]).read_text(encoding="utf-8")
    assert record.metrics["micro/runs"] == 1 and record.metrics["micro/arena_bytes"] > 0
    assert record.metrics["auc/test"] > 0.8 and "auc/group_test/id_2" in record.metrics
    assert record.metrics["mse/val"] < record.dataset["primary"]["reference"]
    assert record.metrics["fidelity/clipped"] < 0.2
    assert len(task_runs.read_graph(record).kernels) == 10
    kinds = {op.kind for op in task_runs.read_graph(record).ops}  # no normalisation in float32 between int8 layers
    assert kinds == {"QUANTIZE", "FULLY_CONNECTED", "DEQUANTIZE"}
    assert all(kernel.dtype == "INT8" for _, kernel in task_runs.read_graph(record).kernels)
    assert export.run([str(folder), "--name=car", f"-o{tmp_path}"]) == 0
    assert b"car_tflite[]" in (tmp_path / "car.cc").read_bytes()
