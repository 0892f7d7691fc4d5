from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lightexp.objectives.attention import Attention
from lightexp.objectives.cross_entropy import CrossEntropy
from lightexp.objectives.distill import Distill
from lightexp.objectives.hint import Hint

pytestmark = pytest.mark.usefixtures("tensorflow")

LABELS = np.array([0, 2, 1, 2], np.int32)


def logits(seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 4, (4, 3)).astype(np.float32)


def softmax(values: Any, temperature: float = 1.0) -> Any:
    powers = np.exp(np.asarray(values, np.float64) / temperature)
    return powers / powers.sum(axis=1, keepdims=True)


def cross_entropy(values: Any) -> Any:
    return -np.log(softmax(values)[np.arange(4), LABELS])


def test_cross_entropy_is_of_the_softmax() -> None:
    loss = CrossEntropy().loss(logits(0), LABELS, {})
    assert loss.shape == (4,)
    np.testing.assert_allclose(loss, cross_entropy(logits(0)), rtol=1e-5)
    assert CrossEntropy().teachers == {}


@pytest.mark.parametrize(("temperature", "alpha"), [(1.0, 1.0), (4.0, 0.9), (2.0, 0.0), (0.5, 0.3)])
def test_distillation_is_hinton_s(temperature: float, alpha: float) -> None:
    student, teacher = logits(1), logits(2)
    p, q = softmax(teacher, temperature), softmax(student, temperature)
    soft = temperature**2 * np.sum(p * np.log(p / q), axis=1)
    loss = Distill(temperature=temperature, alpha=alpha).loss(student, LABELS, {"teacher": teacher})
    np.testing.assert_allclose(loss, alpha * soft + (1 - alpha) * cross_entropy(student), rtol=1e-4)


def test_a_student_that_answers_as_its_teacher_has_nothing_to_learn() -> None:
    loss = Distill(temperature=3.0, alpha=1.0).loss(logits(1), LABELS, {"teacher": logits(1) + 7})  # shifts are nothing
    np.testing.assert_allclose(loss, 0, atol=1e-5)


def test_extreme_logits_stay_finite() -> None:
    far = np.array([[1e4, -1e4, 0]] * 4, np.float32)
    loss = Distill(temperature=1.0, alpha=0.5).loss(far, LABELS, {"teacher": -far})
    assert np.isfinite(loss).all()


def test_the_teacher_is_named() -> None:
    assert Distill().teachers == {"teacher": "control"}
    assert Distill(teacher=["model=lenet5"]).teachers == {"teacher": ["model=lenet5"]}


def test_the_gradient_s_size_does_not_depend_on_the_temperature() -> None:
    import tensorflow as tf

    def size(temperature: float) -> float:
        student = tf.constant(logits(1) / 50)
        with tf.GradientTape() as tape:
            tape.watch(student)
            loss = Distill(temperature=temperature, alpha=1.0).loss(student, LABELS, {"teacher": logits(2) / 50})
        return float(tf.norm(tape.gradient(loss, student)))

    assert size(20.0) == pytest.approx(size(1.0), rel=0.1)


def test_several_teachers_are_averaged_as_probabilities() -> None:
    student, teachers = logits(1), {"teacher": logits(2), "big": logits(3), "old": logits(4)}
    p, q = np.mean([softmax(t, 2.0) for t in teachers.values()], axis=0), softmax(student, 2.0)
    loss = Distill(others={"big": "a.tflite", "old": ["model=lenet5"]}, temperature=2.0, alpha=1.0)
    assert loss.teachers == {"teacher": "control", "big": "a.tflite", "old": ["model=lenet5"]}
    np.testing.assert_allclose(loss.loss(student, LABELS, teachers), 4 * np.sum(p * np.log(p / q), axis=1), rtol=1e-4)


def test_a_further_teacher_has_a_name_of_its_own() -> None:
    with pytest.raises(ValueError, match="cannot be called 'teacher'"):
        Distill(others={"teacher": "control"})


def test_hints_are_mean_squares_and_attention_is_blind_to_size_and_channels() -> None:
    rng = np.random.default_rng(0)
    mine, theirs = (rng.normal(size=(4, 3, 3, c)).astype(np.float32) for c in (2, 5))
    np.testing.assert_allclose(
        Hint(weight=3.0).feature_loss(mine, 2 * mine), 1.5 * np.mean(mine.reshape(4, -1) ** 2, axis=1), rtol=1e-5
    )

    def at(features: Any) -> Any:
        flat = np.mean(features.astype(np.float64) ** 2, axis=-1).reshape(4, -1)
        return flat / np.linalg.norm(flat, axis=1, keepdims=True)

    loss = Attention(beta=10.0).feature_loss(mine, theirs)
    np.testing.assert_allclose(loss, 10 * np.mean((at(mine) - at(theirs)) ** 2, axis=1), rtol=1e-4)
    np.testing.assert_allclose(Attention().feature_loss(mine, np.repeat(mine, 3, axis=-1) * 7), 0, atol=1e-5)
