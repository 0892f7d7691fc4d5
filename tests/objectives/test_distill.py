"""Tests of the distillation objective."""

from __future__ import annotations

import numpy as np
import pytest

from lightexp.objectives.distill import Distillation
from lightexp.tasks.classification import Classification
from tests.objectives.examples import LABELS, compute_cross_entropy, compute_softmax, make_logits

pytestmark = pytest.mark.usefixtures("tensorflow")
TASK = Classification()


@pytest.mark.parametrize(("temperature", "alpha"), [(1.0, 1.0), (4.0, 0.9), (2.0, 0.0), (0.5, 0.3)])
def test_loss_equals_formula_of_hinton(temperature: float, alpha: float) -> None:
    student, teacher = make_logits(1), make_logits(2)
    p, q = compute_softmax(teacher, temperature), compute_softmax(student, temperature)
    divergence = temperature**2 * np.sum(p * np.log(p / q), axis=1)
    loss = Distillation(temperature=temperature, alpha=alpha).compute_loss(TASK, student, LABELS, {"teacher": teacher})
    np.testing.assert_allclose(loss, alpha * divergence + (1 - alpha) * compute_cross_entropy(student), rtol=1e-4)


def test_loss_is_zero_if_student_equals_teacher() -> None:
    shifted = make_logits(1) + 7  # a shift does not change the softmax
    loss = Distillation(temperature=3.0, alpha=1.0).compute_loss(TASK, make_logits(1), LABELS, {"teacher": shifted})
    np.testing.assert_allclose(loss, 0, atol=1e-5)


def test_loss_of_extreme_logits_is_finite() -> None:
    extreme = np.array([[1e4, -1e4, 0]] * 4, np.float32)
    loss = Distillation(temperature=1.0, alpha=0.5).compute_loss(TASK, extreme, LABELS, {"teacher": -extreme})
    assert np.isfinite(loss).all()


def test_teachers_holds_the_named_teacher() -> None:
    assert Distillation().teachers == {"teacher": "control"}
    assert Distillation(teacher=["model=lenet5"]).teachers == {"teacher": ["model=lenet5"]}


def test_gradient_scale_is_independent_of_temperature() -> None:
    import tensorflow as tf

    def compute_gradient_norm(temperature: float) -> float:
        student = tf.constant(make_logits(1) / 50)
        objective = Distillation(temperature=temperature, alpha=1.0)
        with tf.GradientTape() as tape:
            tape.watch(student)
            loss = objective.compute_loss(TASK, student, LABELS, {"teacher": make_logits(2) / 50})
        return float(tf.norm(tape.gradient(loss, student)))

    assert compute_gradient_norm(20.0) == pytest.approx(compute_gradient_norm(1.0), rel=0.1)


def test_probabilities_of_several_teachers_are_averaged() -> None:
    student = make_logits(1)
    teachers = {"teacher": make_logits(2), "big": make_logits(3), "old": make_logits(4)}
    p = np.mean([compute_softmax(logits, 2.0) for logits in teachers.values()], axis=0)
    q = compute_softmax(student, 2.0)
    objective = Distillation(others={"big": "a.tflite", "old": ["model=lenet5"]}, temperature=2.0, alpha=1.0)
    assert objective.teachers == {"teacher": "control", "big": "a.tflite", "old": ["model=lenet5"]}
    loss = objective.compute_loss(TASK, student, LABELS, teachers)
    np.testing.assert_allclose(loss, 4 * np.sum(p * np.log(p / q), axis=1), rtol=1e-4)


def test_reserved_teacher_name_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be called 'teacher'"):
        Distillation(others={"teacher": "control"})
