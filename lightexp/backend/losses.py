"""Losses of each example, as TensorFlow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf


def compute_cross_entropy(logits: Any, labels: Any) -> Any:
    """Cross-entropy `(batch,)`, in nats, of logits `(batch, classes)` with integer labels `(batch,)`."""
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)


def compute_soft_divergence(teachers: Sequence[Any], student: Any, temperature: float) -> Any:
    """`T^2 * KL(softmax(teacher / T) || softmax(student / T))`, `(batch,)`, of logits `(batch, classes)`.

    The softmax of several teachers is the mean of theirs.
    """
    target = tf.nn.log_softmax(teachers[0] / temperature)
    if len(teachers) > 1:
        each = [target, *(tf.nn.log_softmax(logits / temperature) for logits in teachers[1:])]
        target = tf.reduce_logsumexp(tf.stack(each), axis=0) - math.log(len(each))
    soft = tf.nn.log_softmax(student / temperature)
    return temperature**2 * tf.reduce_sum(tf.exp(target) * (target - soft), axis=-1)


def compute_mean_squares(differences: Any) -> Any:
    """Mean of the squares of each example's values, `(batch,)`, of a tensor `(batch, ...)`."""
    return tf.reduce_mean(tf.square(differences), axis=list(range(1, len(differences.shape))))


def compute_attention_map(features: Any) -> Any:
    """Mean square over the channels at each position, `(batch, positions)`, scaled to length 1."""
    positions = tf.reduce_mean(tf.square(features), axis=-1)
    return tf.math.l2_normalize(tf.reshape(positions, [tf.shape(features)[0], math.prod(features.shape[1:-1])]), axis=1)
