"""Tests of augmentation: which results come up, how often, and what decides them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from lightexp.core.data import Data, Split
from lightexp.core.preprocessing import Augment
from lightexp.core.protocols import TrainingObjective
from lightexp.objectives.cross_entropy import CrossEntropy
from lightexp.objectives.distill import Distillation
from tests.backend import tiny_keras

COUNT = 2000
IMAGE = np.arange(1, 4 * 5 * 2 + 1, dtype=np.float32).reshape(4, 5, 2)
ALL_AUGMENTATIONS = Augment(flip=True, shift=2, cutout=2, mixup=0.3)

Array = NDArray[np.float32]


@cache
def trace_augmentation(shape: tuple[int, ...], augment: Augment, seed: int) -> Any:
    """Trace the augmentation of batches whose size is unknown."""
    import tensorflow as tf

    from lightexp.backend import augmentation

    signature = [tf.TensorSpec([None, *shape], tf.float32), tf.TensorSpec([], tf.int64)]
    return tf.function(
        lambda x, now: augmentation.augment_batch(x, augment, seed, now)[: 2 if augment.mixup else 1], signature
    )


def augment_in_graph(inputs: Array, augment: Augment, seed: int = 0, step: int = 1) -> tuple[Array, Array | None]:
    """Augment in a graph."""
    import tensorflow as tf

    graph = trace_augmentation(inputs.shape[1:], augment, seed)
    outputs = [tensor.numpy() for tensor in graph(inputs, tf.constant(step, tf.int64))]
    return outputs[0], outputs[1] if augment.mixup else None


def shift_image(image: Array, down: int, right: int) -> Array:
    height, width, _ = image.shape
    moved = np.zeros_like(image)
    for row in range(height):
        for column in range(width):
            if 0 <= row + down < height and 0 <= column + right < width:
                moved[row + down, column + right] = image[row, column]
    return moved


def cut_image(image: Array, size: int, row: int, column: int) -> Array:
    holed, top, left = image.copy(), row - size // 2, column - size // 2
    holed[max(top, 0) : max(top + size, 0), max(left, 0) : max(left + size, 0)] = 0
    return holed


def list_outcomes(augment: Augment) -> list[Array]:
    """Return what `IMAGE` can become; equally likely outcomes, of which some are equal."""
    flips = [IMAGE, IMAGE[:, ::-1]] if augment.flip else [IMAGE]
    offsets = range(-augment.shift, augment.shift + 1)
    moved = [shift_image(image, down, right) for image in flips for down in offsets for right in offsets]
    if not augment.cutout:
        return moved
    return [cut_image(image, augment.cutout, row, column) for image in moved for row in range(4) for column in range(5)]


@pytest.mark.parametrize(
    "augment",
    [
        Augment(flip=True),
        Augment(shift=1),
        Augment(shift=3),
        Augment(cutout=1),
        Augment(cutout=2),
        Augment(cutout=3),
        Augment(flip=True, shift=1),
        Augment(flip=True, cutout=3),
        Augment(flip=True, shift=1, cutout=2),
    ],
    ids=str,
)
def test_all_outcomes_are_equally_likely(tensorflow: None, augment: Augment) -> None:
    expected: dict[bytes, int] = {}
    for image in list_outcomes(augment):
        expected[image.tobytes()] = expected.get(image.tobytes(), 0) + 1
    images, weights = augment_in_graph(np.stack([IMAGE] * COUNT), augment)
    counts = dict.fromkeys(expected, 0)
    for image in images:
        counts[image.tobytes()] += 1
    assert weights is None
    frequencies = np.array(list(expected.values())) * COUNT / sum(expected.values())
    assert frequencies.min() > 5  # as the test of independence requires
    assert stats.chisquare(list(counts.values()), frequencies).pvalue > 1e-3


def test_images_and_steps_are_augmented_independently(tensorflow: None) -> None:
    images = np.stack([IMAGE] * COUNT)
    flips = [augment_in_graph(images, Augment(flip=True), step=step)[0][:, 0, 0, 0] == 1 for step in (1, 2)]
    for flipped, before in [(flips[0], flips[1]), (flips[0][1:], flips[0][:-1])]:
        assert abs(np.mean(flipped == before) - 0.5) < 0.06


@pytest.mark.parametrize("alpha", [0.2, 1.0, 8.0])
def test_mixup_weights_follow_the_beta_distribution(tensorflow: None, alpha: float) -> None:
    inputs = np.random.default_rng(0).normal(size=(COUNT, 3)).astype(np.float32)
    mixed, share = augment_in_graph(inputs, Augment(mixup=alpha))
    assert share is not None
    weight = share[:, None]
    np.testing.assert_array_equal(mixed, weight * inputs + (1 - weight) * np.roll(inputs, 1, axis=0))
    # The weights are the upper half of a symmetric distribution.
    assert stats.kstest(share, lambda x: 2 * stats.beta.cdf(x, alpha, alpha) - 1).pvalue > 1e-3


@pytest.mark.parametrize("alpha", [1e-45, 1e-6, 1e6, 1e30])
def test_mixup_weights_are_finite_for_extreme_alpha(tensorflow: None, alpha: float) -> None:
    _, share = augment_in_graph(np.ones((COUNT, 1), np.float32), Augment(mixup=alpha))
    assert share is not None and ((share >= 0.5) & (share <= 1)).all()
    assert share.mean() == pytest.approx(1.0 if alpha < 1 else 0.5, abs=1e-3)


@pytest.mark.parametrize("shape", [(3,), (7, 1), (4, 5, 2)])
def test_mixup_accepts_any_shape_and_a_batch_of_one(tensorflow: None, shape: tuple[int, ...]) -> None:
    inputs = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    np.testing.assert_allclose(augment_in_graph(inputs, Augment(mixup=1.0))[0], inputs, rtol=1e-6)


def test_only_seed_and_step_decide_the_draws(tensorflow: None) -> None:
    images = np.stack([IMAGE] * 64)

    def augmented_bytes(augment: Augment, seed: int, step: int) -> bytes:
        return b"".join(array.tobytes() for array in augment_in_graph(images, augment, seed, step) if array is not None)

    for augment in (ALL_AUGMENTATIONS, *(replace(Augment(), **{n: v}) for n, v in vars(ALL_AUGMENTATIONS).items())):
        results = [augmented_bytes(augment, *draw) for draw in ((5, 1), (5, 2), (6, 1), (5, 2**40 + 1))]
        assert len(set(results)) == 4
        assert augmented_bytes(augment, 5, 1) == results[0]
        trace_augmentation.cache_clear()
        assert augmented_bytes(augment, 5, 1) == results[0]


def train(loop: str, source: Data, net: Any, **changes: Any) -> dict[str, list[float]]:
    from lightexp.backend.training import TeacherSignals, Trainer

    logits = {
        "teacher": np.random.default_rng(0).normal(size=(len(source.train), tiny_keras.CLASSES)).astype(np.float32)
    }
    teachers = logits if isinstance(changes.get("objective"), Distillation) else {}
    history = Trainer(net, tiny_keras.make_settings(loop=loop, **changes), source, 5, TeacherSignals(teachers)).run(
        tiny_keras.CountingProgress()
    )
    return {name: values for name, values in history.items() if name != "seconds"}


def weight_bytes(net: Any) -> list[bytes]:
    return [weight.tobytes() for weight in net.get_weights()]


@pytest.mark.parametrize("objective", [CrossEntropy(), Distillation()], ids=["cross_entropy", "distill"])
def test_graph_and_fit_augment_to_the_same_bytes(tensorflow: None, objective: TrainingObjective) -> None:
    source = replace(tiny_keras.make_data(), augment=ALL_AUGMENTATIONS)
    results = []
    for loop in ("graph", "fit", "graph"):
        net = tiny_keras.make_model("norm")
        curves = train(loop, source, net, objective=objective)
        results.append((weight_bytes(net), curves))
    assert results[0] == results[2]
    assert results[0][0] == results[1][0]
    plain = tiny_keras.make_model("norm")
    train("graph", tiny_keras.make_data(), plain, objective=objective)
    assert weight_bytes(plain) != results[0][0]


def test_augmentation_ignores_how_epochs_are_cut(tensorflow: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from lightexp.backend import epoch_loops

    seen = []
    for first, seconds in ((8, 0.5), (1, 0.0), (1000, 1e9)):
        monkeypatch.setattr(epoch_loops, "FIRST_CALL_STEPS", first)
        monkeypatch.setattr(epoch_loops, "SECONDS_PER_CALL", seconds)
        net = tiny_keras.make_model("norm")
        seen.append(
            (train("graph", replace(tiny_keras.make_data(), augment=ALL_AUGMENTATIONS), net), weight_bytes(net))
        )
    assert seen[0] == seen[1] == seen[2]


def test_each_step_and_epoch_draws_anew(tensorflow: None) -> None:
    """A layer records what cutout leaves of constant images."""
    import tensorflow as tf

    from lightexp.backend.session import import_keras

    seen: list[bytes] = []

    class Recording(import_keras().layers.Layer):  # type: ignore[misc]
        def call(self, inputs: Any, training: bool = False) -> Any:
            if training:
                tf.py_function(lambda x: seen.append(x.numpy().tobytes()), [inputs], [])
            return inputs

    net = tiny_keras.make_model("dense")
    net = import_keras().Model(net.inputs, net(Recording()(net.inputs[0])))
    ones = Split(np.ones((32, *tiny_keras.SHAPE), np.float32), np.zeros(32, np.int32))
    train("graph", Data("ones", ones, ones, ones, tiny_keras.CLASSES, augment=Augment(cutout=3)), net, epochs=3)
    assert len(seen) == len(set(seen)) == 3 * 2


@dataclass(frozen=True)
class LabelObjective(TrainingObjective):
    """Ten times the label plus the teacher's first logit, whatever the model's logits."""

    @property
    def teachers(self) -> dict[str, Any]:
        return {"teacher": "control"}

    def loss(self, logits: Any, labels: Any, teachers: Mapping[str, Any]) -> Any:
        import tensorflow as tf

        return 10 * tf.cast(labels, tf.float32) + teachers["teacher"][:, 0] + 0 * logits[:, 0]


@pytest.mark.parametrize("loop", ["graph", "fit"])
def test_mixup_mixes_labels_and_teachers_like_examples(tensorflow: None, loop: str) -> None:
    import tensorflow as tf

    from lightexp.backend.training import TeacherSignals, Trainer

    source = replace(tiny_keras.make_data(), augment=Augment(mixup=0.5))
    logits = np.random.default_rng(3).normal(size=(tiny_keras.EXAMPLES, tiny_keras.CLASSES)).astype(np.float32)
    chosen = tiny_keras.make_settings(objective=LabelObjective(), loop=loop, epochs=1)
    history = Trainer(tiny_keras.make_model("dense"), chosen, source, 5, TeacherSignals({"teacher": logits})).run(
        tiny_keras.CountingProgress()
    )
    order = tf.random.experimental.stateless_shuffle(tf.range(tiny_keras.EXAMPLES), seed=[5, 0]).numpy()
    total = 0.0
    for step, start in enumerate(range(0, tiny_keras.EXAMPLES, chosen.batch_size), start=1):
        rows = order[start : start + chosen.batch_size]
        share = augment_in_graph(source.inputs(source.train.x[rows]), source.augment, 5, step)[1]
        loss = 10 * source.train.y[rows] + logits[rows, 0]
        assert share is not None
        total += float(np.sum(share * loss + (1 - share) * np.roll(loss, 1)))
    assert history["loss"] == pytest.approx([total / tiny_keras.EXAMPLES], rel=1e-5)


def test_validation_is_not_augmented(tensorflow: None) -> None:
    """With a learning rate too small to change a weight, both see the initial weights."""
    curves = []
    for augment in (Augment(), ALL_AUGMENTATIONS):
        curves.append(
            train(
                "graph",
                replace(tiny_keras.make_data(), augment=augment),
                tiny_keras.make_model("dense"),
                learning_rate=1e-12,
            )
        )
    assert curves[0]["val_loss"] == curves[1]["val_loss"]
    assert curves[0]["loss"] != curves[1]["loss"]


@pytest.mark.parametrize("loop", ["graph", "fit"])
def test_channel_factors_reach_training_and_validation(tensorflow: None, loop: str) -> None:
    """Raw values with factors train to the same bytes as values scaled before."""
    from lightexp.backend.session import import_keras, reset_graph

    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (40, 6, 6, 3), np.uint8), rng.integers(0, tiny_keras.CLASSES, 40).astype(np.int32)
    raw = Split(x, y)
    factors: dict[str, Any] = {"scale": (0.5, 0.25, 2.0**-8), "offset": (-8.0, 1.0, -0.5)}  # exact in any order
    unscaled = Data("raw", raw, raw, raw, tiny_keras.CLASSES, **factors)
    before = Split(unscaled.inputs(x), y)
    assert not np.allclose(before.x[..., 0], before.x[..., 2])
    results = []
    for source in (unscaled, Data("scaled", before, before, before, tiny_keras.CLASSES)):
        reset_graph(0)
        inputs = import_keras().layers.Input((6, 6, 3))
        flat = import_keras().layers.Flatten()(import_keras().layers.Conv2D(4, 3)(inputs))
        net = import_keras().Model(inputs, import_keras().layers.Dense(tiny_keras.CLASSES)(flat))
        results.append((train(loop, source, net, epochs=2), weight_bytes(net)))
    assert results[0] == results[1]
