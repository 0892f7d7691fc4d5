"""Tests of the regression task: standardised targets, metrics against scikit-learn, losses, refusals, runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as reference

from lightexp.core.errors import BadInput
from lightexp.core.sensitivity import SensitivityTable
from lightexp.tasks.regression import Regression
from tests.tasks.examples import make_data
from tests.tasks.runs import TaskRuns

RNG = np.random.default_rng(0)
TARGETS = (RNG.normal(0, 1, (60, 2)) * [5.0, 40.0] + [100.0, -300.0]).astype(np.float32)
RAW = make_data(TARGETS, TARGETS[:30], TARGETS[30:], classes=0)


def test_targets_are_standardised_by_the_train_split() -> None:
    data = Regression().prepare(RAW)
    np.testing.assert_allclose(data.train.y.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(data.train.y.std(axis=0), 1, rtol=1e-5)
    np.testing.assert_allclose(data.val.y * data.target_scale + data.target_offset, TARGETS[:30], rtol=1e-5)
    assert data.outputs == 2
    assert "target = output * std + mean" in data.notes[-1]
    own = data.task.use_own_unit(data)
    np.testing.assert_allclose(own.train.y, TARGETS, rtol=1e-5)
    assert (own.target_scale, own.notes) == ((), ())


def test_metrics_are_in_the_unit_of_the_targets() -> None:
    data = Regression(unit="mm").prepare(RAW)
    outputs = data.val.y + RNG.normal(0, 0.1, (30, 2)).astype(np.float32)
    own = outputs * data.target_scale + data.target_offset
    metrics = {metric.name: metric for metric in data.task.measure({"val": outputs}, data)}
    values = {name: metric.value for name, metric in metrics.items()}
    assert values["rmse/val"] == pytest.approx(reference.mean_squared_error(TARGETS[:30], own) ** 0.5, rel=1e-4)
    assert values["mae/val"] == pytest.approx(reference.mean_absolute_error(TARGETS[:30], own), rel=1e-4)
    assert values["r2/val"] == pytest.approx(reference.r2_score(TARGETS[:30], own), rel=1e-4)
    assert (metrics["rmse/val"].unit, metrics["r2/val"].unit, metrics["rmse/val"].direction) == ("mm", "", "min")
    (difference,) = data.task.compare(outputs, data.val.y, data)
    assert (difference.name, difference.value) == ("fidelity/rmse", pytest.approx(values["rmse/val"], rel=1e-4))


@pytest.mark.parametrize(("primary", "chance"), [("rmse", 40.0), ("mae", 32.0), ("r2", 0.0)])
def test_chance_is_the_metric_of_the_mean(primary: Any, chance: float) -> None:
    targets = (RNG.normal(0, 40, (4000, 1)) + 7).astype(np.float32)
    data = Regression(primary=primary).prepare(make_data(targets, classes=0))
    assert data.task.describe_primary(data).reference == pytest.approx(chance, rel=0.05, abs=1e-6)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (make_data(np.array([0, 1], np.int32)), "Received: 2 classes in known. Say task=binary"),
        (replace(RAW, val=make_data(TARGETS * np.nan).val), "targets of the val split hold NaN or infinity"),
        (make_data(TARGETS * [1, 0], classes=0), "target 1 of known is constant in the train split, 0."),
    ],
)
def test_unusable_targets_are_refused(data: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message.replace(".", r"\.")):
        Regression().prepare(data)


@pytest.mark.usefixtures("tensorflow")
def test_losses_equal_formulas() -> None:
    outputs, targets = np.array([[3.0, 0.5]], np.float32), np.array([[1.0, 0.0]], np.float32)
    expected = {"mse": (4 + 0.25) / 2, "mae": (2 + 0.5) / 2, "huber": (1.5 + 0.125) / 2}
    for loss, value in expected.items():
        task = Regression(loss=loss)  # type: ignore[arg-type]
        np.testing.assert_allclose(task.compute_loss(outputs, targets), [value], rtol=1e-6)
    teachers = [targets + 1, targets - 1]
    np.testing.assert_allclose(Regression().compute_soft_loss(teachers, outputs, 4.0), [expected["mse"]], rtol=1e-6)
    data = Regression().prepare(RAW)
    assert float(data.task.score_examples(outputs, targets, data)) == pytest.approx(
        float(np.mean(np.array([2.0, 0.5]) * data.target_scale)), rel=1e-5
    )


def test_sensitivity_is_in_the_unit_of_the_targets(task_runs: TaskRuns) -> None:
    diabetes = ["task=regression", "dataset.name=diabetes"]
    record = task_runs.run(*diabetes, "pipeline=sensitivity_prune", "measure=default", epochs=6)
    control = record.stages[0]
    assert control.metric("rmse/val") == pytest.approx(control.facts["history"]["val_mae"][-1], rel=0.5)
    assert 40 < record.metrics["rmse/test"] < 77  # that of the mean
    assert record.metrics["fidelity/rmse"] > 0
    table = SensitivityTable.find(record.stages[1].facts)
    assert table is not None and (table.primary.name, table.primary.direction) == ("rmse", "min")
    drops = dict(table.compute_drops(["dense1"], "sparsity"))
    assert drops[0.99] == pytest.approx(table.layers["dense1"].levels["sparsity"][0.99] - table.baseline)
    assert "val_accuracy" not in control.facts["history"]


def test_int8_file_stays_close_to_the_float_one(task_runs: TaskRuns) -> None:
    diabetes = ["task=regression", "dataset.name=diabetes"]
    record = task_runs.run(*diabetes, "pipeline=quantize", "pipeline.stages.quantize.scheme=int8", "measure=default")
    assert record.dataset["targets"]["mean"] == [pytest.approx(151.1, abs=0.1)]
    assert record.metrics["fidelity/rmse"] < 0.1 * record.metrics["rmse/val"]


def test_file_as_teacher_of_standardised_targets_is_refused(task_runs: TaskRuns) -> None:
    overrides = ["task=regression", "dataset.name=diabetes", "pipeline=distill"]
    with pytest.raises(BadInput, match=r"teacher=a\.tflite: a file gives targets in their own unit"):
        task_runs.run(*overrides, "pipeline.stages.distill.objective.teacher=a.tflite")


def test_budget_is_in_the_unit_of_the_targets(task_runs: TaskRuns) -> None:
    overrides = ["task=regression", "dataset.name=diabetes", "pipeline=rate", "pipeline.stages.rate.tolerance=9"]
    record = task_runs.run(*overrides, "pipeline.stages.rate.budget=primary", epochs=8)
    control, trained = (stage.metric("rmse/val") for stage in record.stages)
    facts = record.stages[1].facts
    assert facts["reached"] == pytest.approx(trained, rel=1e-4)
    is_missed = trained > control + 9  # type: ignore[operator]
    assert ("worse than" in facts.get("note", "")) == is_missed
    with pytest.raises(BadInput, match=r"budget=accuracy, but choices are based on rmse\. Set budget=primary"):
        task_runs.run(*overrides, "pipeline.stages.rate.budget=accuracy")


def test_numbers_of_a_users_file_are_learnt(task_runs: TaskRuns, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 4)).astype(np.float32)
    y = np.stack([100 + 10 * x[:, 0], x[:, 1] - x[:, 2]], axis=1)
    np.savez(tmp_path / "sensor.npz", x=x, y=y)
    file = ["dataset=arrays", f"dataset.path={tmp_path / 'sensor.npz'}"]
    record = task_runs.run("task=regression", *file, "pipeline=control", epochs=20)
    assert record.metrics["r2/test"] > 0.7
    assert record.dataset["targets"]["mean"][0] == pytest.approx(100, abs=2)
    with pytest.raises(BadInput, match=r"not one-hot.*say task=regression"):
        task_runs.run(*file, "pipeline=control")
