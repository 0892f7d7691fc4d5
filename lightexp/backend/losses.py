"""Losses of each example, as TensorFlow."""

from __future__ import annotations

from typing import Any

import tensorflow as tf


def cross_entropy(logits: Any, labels: Any) -> Any:
    """Cross-entropy `(batch,)`, in nats, of logits `(batch, classes)` with integer labels `(batch,)`."""
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)


def soft_divergence(teacher: Any, student: Any, temperature: float) -> Any:
    """`T^2 * KL(softmax(teacher / T) || softmax(student / T))`, `(batch,)`, of logits `(batch, classes)`."""
    target = tf.nn.log_softmax(teacher / temperature)
    soft = tf.nn.log_softmax(student / temperature)
    return temperature**2 * tf.reduce_sum(tf.exp(target) * (target - soft), axis=-1)
