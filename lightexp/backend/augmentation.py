"""Augment batches inside the training graph: flip, shift, cutout, mixup; see `lightexp.core.preprocessing.Augment`.

All random numbers come from stateless operators seeded by (seed, step): they differ at every step, repeat with the run
and do not depend on how the steps are grouped into calls.
"""

from __future__ import annotations

from typing import Any

from lightexp.backend.session import import_tensorflow
from lightexp.core.preprocessing import Augment

tf = import_tensorflow()

_SMALLEST_DRAW = 1e-30  # so that its logarithm is finite


def augment_batch(inputs: Any, augment: Augment, seed: int, step: Any) -> tuple[Any, Any]:
    """Augment a batch, in the order flip, shift, cutout, mixup.

    Args:
        inputs: Float32 tensor `(batch, *shape)`, scaled.
        augment: The augmentation's settings.
        seed: The training's seed.
        step: Int64 scalar tensor.

    Returns:
        The augmented inputs, and with mixup the weight of each example in its mixture `(batch,)`, from 0.5 to 1 (the
        rest is its partner's, see `draw_mixup_partners`), else None.
    """
    seeds = tf.random.experimental.stateless_split(tf.stack([tf.constant(seed, tf.int64), step]), 3)
    count = tf.shape(inputs)[0]
    draws = tf.random.stateless_uniform([5, count], seeds[0])
    if augment.flip or augment.shift:
        inputs = _flip_and_shift(inputs, augment, draws[:3])
    if augment.cutout:
        inputs = _cut_out(inputs, augment.cutout, draws[3:])
    if not augment.mixup:
        return inputs, None
    weight = _draw_mixup_weights(augment.mixup, count, seeds[1], seeds[2])
    broadcast = tf.reshape(weight, [-1, *[1] * (len(inputs.shape) - 1)])
    return broadcast * inputs + (1 - broadcast) * draw_mixup_partners(inputs), weight


def draw_mixup_partners(batch: Any) -> Any:
    """Return what each example is mixed with: the example before it, since the epoch's order is random already."""
    return tf.roll(batch, 1, axis=0)


def _flip_and_shift(images: Any, augment: Augment, draws: Any) -> Any:
    """Flip and shift images in one gather of pixels, by far the fastest way on a CPU.

    Args:
        images: `(batch, height, width, channels)`.
        augment: Its `flip` and `shift` are used.
        draws: `(3, batch)` from 0 to 1: for the flip, the vertical and the horizontal shift.
    """
    _, height, width, channels = images.shape
    count = tf.shape(images)[0]
    offsets = _draw_integers(draws[1:], 2 * augment.shift + 1) - augment.shift
    rows, columns = tf.range(height) - offsets[0][:, None], tf.range(width) - offsets[1][:, None]
    inside = _is_between(rows, 0, height)[:, :, None] & _is_between(columns, 0, width)[:, None, :]
    if augment.flip:
        columns = tf.where(draws[0][:, None] < 0.5, width - 1 - columns, columns)
    rows = tf.range(count)[:, None] * height + tf.clip_by_value(rows, 0, height - 1)
    pixels = rows[:, :, None] * width + tf.clip_by_value(columns, 0, width - 1)[:, None, :]
    moved = tf.gather(tf.reshape(images, [-1, channels]), pixels)
    return moved * tf.cast(inside, tf.float32)[..., None] if augment.shift else moved


def _cut_out(images: Any, size: int, draws: Any) -> Any:
    """Set a square to 0. Its centre may be any pixel, so part of it may lie outside, as in the paper's code.

    Args:
        images: `(batch, height, width, channels)`.
        size: Side of the square.
        draws: `(2, batch)` from 0 to 1: for the centre's row and column.
    """
    sides = images.shape[1:3]
    starts = [
        _draw_integers(draw, side)[:, None] - size // 2 for draw, side in zip(tf.unstack(draws), sides, strict=True)
    ]
    rows, columns = (
        _is_between(tf.range(side), start, start + size) for side, start in zip(sides, starts, strict=True)
    )
    return images * tf.cast(~(rows[:, :, None] & columns[:, None, :]), tf.float32)[..., None]


def _draw_mixup_weights(alpha: float, count: Any, gamma_seed: Any, uniform_seed: Any) -> Any:
    """Draw max(lambda, 1 - lambda) for lambda from Beta(alpha, alpha), `(count,)`.

    Which example of a pair has the larger weight is of no importance. Lambda is G / (G + G') for two draws of
    Gamma(alpha). Such draws underflow for a small alpha; so their logarithms are drawn, as those of
    `Gamma(alpha + 1) * uniform ** (1 / alpha)`, which has the same distribution.
    """
    gamma = tf.math.log(tf.random.stateless_gamma([2, count], gamma_seed, alpha=alpha + 1))
    uniform = tf.math.log(tf.random.stateless_uniform([2, count], uniform_seed, minval=_SMALLEST_DRAW))
    return tf.sigmoid(tf.abs(gamma[0] - gamma[1] + (uniform[0] - uniform[1]) / alpha))


def _draw_integers(draws: Any, stop: int) -> Any:
    """Map draws from 0 to 1 onto the integers from 0 to `stop - 1`."""
    return tf.cast(tf.floor(draws * stop), tf.int32)


def _is_between(values: Any, start: Any, stop: Any) -> Any:
    return (values >= start) & (values < stop)
