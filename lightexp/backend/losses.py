"""Per-example losses in TensorFlow: cross-entropy, soft divergence, mean squares, attention maps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lightexp.backend.session import import_tensorflow

if TYPE_CHECKING:
    from lightexp.core.task import Task

tf = import_tensorflow()


def compute_cross_entropy(logits: Any, labels: Any) -> Any:
    """Return the cross-entropy of each example.

    Args:
        logits: `(batch, classes)`.
        labels: Integer labels `(batch,)`.

    Returns:
        `(batch,)`, in nats.
    """
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)


def count_correct(logits: Any, labels: Any) -> Any:
    """Return the number of examples whose highest logit is the label's, a scalar tensor."""
    return tf.math.count_nonzero(tf.equal(tf.argmax(logits, axis=-1, output_type=tf.int32), labels))


def select_targets(task: Task, inputs: Any, targets: Any) -> Any:
    """Return what a task compares a batch's outputs with: the targets or the scaled inputs, as `(batch, values)`."""
    if not task.learns_inputs:
        return targets
    return tf.reshape(inputs, [-1, math.prod(inputs.shape[1:])])


def pair_logits(logits: Any) -> Any:
    """Return logits of two classes, `(batch, 2)`, whose softmax is the sigmoid of `(batch, 1)` and its complement."""
    return tf.concat([tf.zeros_like(logits), logits], axis=1)


def compute_binary_cross_entropy(logits: Any, labels: Any, pos_weight: float) -> Any:
    """Return the cross-entropy of each example, `(batch,)`, in nats.

    Args:
        logits: `(batch, 1)`.
        labels: 0 or 1, `(batch,)`.
        pos_weight: Weight of the examples of label 1.
    """
    targets = tf.cast(labels, logits.dtype)
    return tf.nn.weighted_cross_entropy_with_logits(targets, logits[:, 0], pos_weight)


def compute_label_cross_entropy(logits: Any, indicators: Any) -> Any:
    """Return the mean of each example's cross-entropies, one for each label, `(batch,)`, in nats.

    Args:
        logits: `(batch, labels)`.
        indicators: 0.0 or 1.0, `(batch, labels)`.
    """
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels=indicators, logits=logits), axis=1)


def compute_label_divergence(teachers: Sequence[Any], student: Any, temperature: float) -> Any:
    """Return the mean of each example's soft divergences, one for each label, `(batch,)`.

    Args:
        teachers: Logits `(batch, labels)` of one or more teachers, whose sigmoids are averaged.
        student: Logits `(batch, labels)`.
        temperature: See `compute_soft_divergence`.
    """
    pairs = [tf.stack([tf.zeros_like(logits), logits], axis=-1) for logits in (*teachers, student)]
    return tf.reduce_mean(compute_soft_divergence(pairs[:-1], pairs[-1], temperature), axis=1)


def count_correct_sets(logits: Any, indicators: Any, threshold: float) -> Any:
    """Return the number of examples all of whose labels are right at a threshold of logits, a scalar tensor."""
    is_correct = tf.equal(logits >= threshold, indicators > 0.5)
    return tf.math.count_nonzero(tf.reduce_all(is_correct, axis=1))


def compute_regression_loss(errors: Any, kind: str, delta: float) -> Any:
    """Return the mean loss of each example's errors, `(batch,)`.

    Args:
        errors: `(batch, targets)`.
        kind: `mse`, `mae` or `huber`.
        delta: Error from which Huber's loss is linear.
    """
    if kind == "mse":
        return compute_mean_squares(errors)
    sizes = tf.abs(errors)
    if kind == "huber":
        sizes = tf.where(sizes < delta, 0.5 * tf.square(errors), delta * (sizes - 0.5 * delta))
    return tf.reduce_mean(sizes, axis=1)


def sum_mean_squares(errors: Any) -> Any:
    """Return the sum over a batch of each example's mean square, a scalar tensor."""
    return tf.reduce_sum(compute_mean_squares(errors))


def sum_absolute_errors(errors: Any, scale: Sequence[float]) -> Any:
    """Return the sum over a batch of each example's mean absolute error, times a scale for each target."""
    return tf.reduce_sum(tf.reduce_mean(tf.abs(errors) * tf.constant(scale, errors.dtype), axis=1))


def compute_soft_divergence(teachers: Sequence[Any], student: Any, temperature: float) -> Any:
    """Return `T^2 * KL(softmax(teacher / T) || softmax(student / T))` of each example.

    Args:
        teachers: Logits `(batch, classes)` of one or more teachers, whose softmaxes are averaged.
        student: Logits `(batch, classes)`.
        temperature: T.

    Returns:
        `(batch,)`, in nats.
    """
    target = tf.nn.log_softmax(teachers[0] / temperature)
    if len(teachers) > 1:
        log_probabilities = [target, *(tf.nn.log_softmax(logits / temperature) for logits in teachers[1:])]
        target = tf.reduce_logsumexp(tf.stack(log_probabilities), axis=0) - math.log(len(log_probabilities))
    soft = tf.nn.log_softmax(student / temperature)
    return temperature**2 * tf.reduce_sum(tf.exp(target) * (target - soft), axis=-1)


def compute_mean_squares(differences: Any) -> Any:
    """Return the mean square of each example's values, `(batch,)`, of a tensor `(batch, ...)`."""
    return tf.reduce_mean(tf.square(differences), axis=list(range(1, len(differences.shape))))


def compute_attention_map(features: Any) -> Any:
    """Return each example's attention map: mean square over the channels at each position, with L2 norm 1.

    Args:
        features: `(batch, *positions, channels)`.

    Returns:
        `(batch, positions)`.
    """
    positions = tf.reduce_mean(tf.square(features), axis=-1)
    return tf.math.l2_normalize(tf.reshape(positions, [tf.shape(features)[0], math.prod(features.shape[1:-1])]), axis=1)
