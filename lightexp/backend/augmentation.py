"""Augmentation of a batch inside the training graph; see `lightexp.core.preprocessing.Augment`.

Every draw comes from stateless operators seeded by (seed, step), so that it is new at every step, repeats with the run
and does not depend on how the steps are called.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from lightexp.core.preprocessing import Augment

_TINY = 1e-30  # keeps a logarithm finite


def augment_batch(inputs: Any, augment: Augment, seed: int, step: Any) -> tuple[Any, Any]:
    """Changes a batch, in the order flip, shift, cutout, mixup.

    Args:
        inputs: Float32 tensor `(batch, *shape)`, scaled.
        augment: What to do.
        seed: Of the draws, together with `step`.
        step: Int64 tensor.

    Returns:
        The changed inputs, and under mixup each example's own share `(batch,)`, from 0.5 to 1 (the rest is that of its
        `partners`), else None.
    """
    seeds = tf.random.experimental.stateless_split(tf.stack([tf.constant(seed, tf.int64), step]), 3)
    count = tf.shape(inputs)[0]
    draws = tf.random.stateless_uniform([5, count], seeds[0])
    if augment.flip or augment.shift:
        inputs = _moved(inputs, augment, draws[:3])
    if augment.cutout:
        inputs = _cut_out(inputs, augment.cutout, draws[3:])
    if not augment.mixup:
        return inputs, None
    share = _shares(augment.mixup, count, seeds[1], seeds[2])
    of_each = tf.reshape(share, [-1, *[1] * (len(inputs.shape) - 1)])
    return of_each * inputs + (1 - of_each) * draw_mixup_partners(inputs), share


def draw_mixup_partners(batch: Any) -> Any:
    """What each example of a batch is mixed with: the one before it, which the epoch's order has drawn already."""
    return tf.roll(batch, 1, axis=0)


def _moved(images: Any, augment: Augment, draws: Any) -> Any:
    """Flipped and shifted images, in one gather of pixels: by far the fastest way on a CPU."""
    _, height, width, channels = images.shape
    count = tf.shape(images)[0]
    offsets = _whole(draws[1:], 2 * augment.shift + 1) - augment.shift
    rows, columns = tf.range(height) - offsets[0][:, None], tf.range(width) - offsets[1][:, None]
    there = _inside(rows, 0, height)[:, :, None] & _inside(columns, 0, width)[:, None, :]
    if augment.flip:
        columns = tf.where(draws[0][:, None] < 0.5, width - 1 - columns, columns)
    rows = tf.range(count)[:, None] * height + tf.clip_by_value(rows, 0, height - 1)
    places = rows[:, :, None] * width + tf.clip_by_value(columns, 0, width - 1)[:, None, :]
    moved = tf.gather(tf.reshape(images, [-1, channels]), places)
    return moved * tf.cast(there, tf.float32)[..., None] if augment.shift else moved


def _cut_out(images: Any, size: int, draws: Any) -> Any:
    """A square's middle may be any pixel, so that part of it may lie outside, as in the paper's code."""
    sides = images.shape[1:3]
    first = [_whole(draw, side)[:, None] - size // 2 for draw, side in zip(tf.unstack(draws), sides, strict=True)]
    rows, columns = (_inside(tf.range(side), start, start + size) for side, start in zip(sides, first, strict=True))
    return images * tf.cast(~(rows[:, :, None] & columns[:, None, :]), tf.float32)[..., None]


def _shares(alpha: float, count: Any, seed: Any, other: Any) -> Any:
    """The larger of lambda and 1 - lambda, of Beta(alpha, alpha); which of a pair is the first means nothing.

    Lambda is G / (G + G') of two draws of Gamma(alpha). They vanish under a small alpha, so their logarithms are taken,
    of the equal in distribution `Gamma(alpha + 1) * uniform ** (1 / alpha)`.
    """
    high = tf.math.log(tf.random.stateless_gamma([2, count], seed, alpha=alpha + 1))
    low = tf.math.log(tf.random.stateless_uniform([2, count], other, minval=_TINY))
    return tf.sigmoid(tf.abs(high[0] - high[1] + (low[0] - low[1]) / alpha))


def _whole(draws: Any, below: int) -> Any:
    """Whole numbers from 0, each as likely, of draws from 0 to 1."""
    return tf.cast(tf.floor(draws * below), tf.int32)


def _inside(values: Any, first: Any, end: Any) -> Any:
    return (values >= first) & (values < end)
