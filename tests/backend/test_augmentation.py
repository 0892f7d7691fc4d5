"""Augmentation: every result is one of those that can be, every one of those comes up, and nothing else decides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
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
from tests.backend import nets

MANY = 2000
IMAGE = np.arange(1, 4 * 5 * 2 + 1, dtype=np.float32).reshape(4, 5, 2)
EVERYTHING = Augment(flip=True, shift=2, cutout=2, mixup=0.3)

Array = NDArray[np.float32]


def augmented(inputs: Array, augment: Augment, seed: int = 0, step: int = 1) -> tuple[Array, Array | None]:
    """As the graph does it: with a batch that is not known before."""
    import tensorflow as tf

    from lightexp.backend import augmentation as room

    signature = [tf.TensorSpec([None, *inputs.shape[1:]], tf.float32), tf.TensorSpec([], tf.int64)]
    graph = tf.function(lambda x, at: room.augment_batch(x, augment, seed, at)[: 2 if augment.mixup else 1], signature)
    found = [tensor.numpy() for tensor in graph(inputs, tf.constant(step, tf.int64))]
    return found[0], found[1] if augment.mixup else None


def shifted(image: Array, down: int, right: int) -> Array:
    height, width, _ = image.shape
    moved = np.zeros_like(image)
    for row in range(height):
        for column in range(width):
            if 0 <= row + down < height and 0 <= column + right < width:
                moved[row + down, column + right] = image[row, column]
    return moved


def cut(image: Array, size: int, row: int, column: int) -> Array:
    holed, top, left = image.copy(), row - size // 2, column - size // 2
    holed[max(top, 0) : max(top + size, 0), max(left, 0) : max(left + size, 0)] = 0
    return holed


def possible(augment: Augment) -> list[Array]:
    """What `IMAGE` can become, each as often as it should come up."""
    flips = [IMAGE, IMAGE[:, ::-1]] if augment.flip else [IMAGE]
    ways = range(-augment.shift, augment.shift + 1)
    moved = [shifted(image, down, right) for image in flips for down in ways for right in ways]
    if not augment.cutout:
        return moved
    return [cut(image, augment.cutout, row, column) for image in moved for row in range(4) for column in range(5)]


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
def test_an_image_becomes_what_it_can_each_as_often(tensorflow: None, augment: Augment) -> None:
    expected: dict[bytes, int] = {}
    for image in possible(augment):
        expected[image.tobytes()] = expected.get(image.tobytes(), 0) + 1
    found, share = augmented(np.stack([IMAGE] * MANY), augment)
    counts = dict.fromkeys(expected, 0)
    for image in found:
        counts[image.tobytes()] += 1
    assert share is None
    wanted = np.array(list(expected.values())) * MANY / sum(expected.values())
    assert wanted.min() > 5  # as the test needs
    assert stats.chisquare(list(counts.values()), wanted).pvalue > 1e-3


def test_images_are_changed_independently_of_each_other_and_of_the_step_before(tensorflow: None) -> None:
    images = np.stack([IMAGE] * MANY)
    kinds = [augmented(images, Augment(flip=True), step=step)[0][:, 0, 0, 0] == 1 for step in (1, 2)]
    for flipped, before in [(kinds[0], kinds[1]), (kinds[0][1:], kinds[0][:-1])]:
        assert abs(np.mean(flipped == before) - 0.5) < 0.06


@pytest.mark.parametrize("alpha", [0.2, 1.0, 8.0])
def test_mixup_mixes_each_example_with_its_partner_by_the_beta_distribution(tensorflow: None, alpha: float) -> None:
    inputs = np.random.default_rng(0).normal(size=(MANY, 3)).astype(np.float32)
    found, share = augmented(inputs, Augment(mixup=alpha))
    assert share is not None
    own = share[:, None]
    np.testing.assert_array_equal(found, own * inputs + (1 - own) * np.roll(inputs, 1, axis=0))
    # of two halves of a symmetric distribution the upper
    assert stats.kstest(share, lambda x: 2 * stats.beta.cdf(x, alpha, alpha) - 1).pvalue > 1e-3


@pytest.mark.parametrize("alpha", [1e-45, 1e-6, 1e6, 1e30])
def test_no_alpha_makes_what_is_not_a_number(tensorflow: None, alpha: float) -> None:
    _, share = augmented(np.ones((MANY, 1), np.float32), Augment(mixup=alpha))
    assert share is not None and ((share >= 0.5) & (share <= 1)).all()
    assert share.mean() == pytest.approx(1.0 if alpha < 1 else 0.5, abs=1e-3)


@pytest.mark.parametrize("shape", [(3,), (7, 1), (4, 5, 2)])
def test_mixup_takes_any_shape_and_a_batch_of_one(tensorflow: None, shape: tuple[int, ...]) -> None:
    inputs = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    np.testing.assert_allclose(augmented(inputs, Augment(mixup=1.0))[0], inputs, rtol=1e-6)


def test_seed_and_step_decide_and_nothing_else(tensorflow: None) -> None:
    images = np.stack([IMAGE] * 64)

    def seen(augment: Augment, seed: int, step: int) -> bytes:
        return b"".join(array.tobytes() for array in augmented(images, augment, seed, step) if array is not None)

    for augment in (EVERYTHING, *(replace(Augment(), **{n: v}) for n, v in vars(EVERYTHING).items())):
        results = [seen(augment, *at) for at in ((5, 1), (5, 1), (5, 2), (6, 1), (5, 2**40 + 1))]
        assert results[0] == results[1]
        assert len(set(results)) == 4


def _train(loop: str, source: Data, net: Any, **changes: Any) -> dict[str, list[float]]:
    from lightexp.backend.training import TeacherSignals, Trainer

    words = {"teacher": np.random.default_rng(0).normal(size=(len(source.train), nets.CLASSES)).astype(np.float32)}
    teachers = words if isinstance(changes.get("objective"), Distillation) else {}
    history = Trainer(net, nets.settings(loop=loop, **changes), source, 5, TeacherSignals(teachers)).run(nets.Quiet())
    return {name: values for name, values in history.items() if name != "seconds"}


def _bytes(net: Any) -> list[bytes]:
    return [weight.tobytes() for weight in net.get_weights()]


@pytest.mark.parametrize("objective", [CrossEntropy(), Distillation()], ids=["cross_entropy", "distill"])
def test_augmented_graph_and_fit_are_one_training(tensorflow: None, objective: TrainingObjective) -> None:
    source = replace(nets.data(), augment=EVERYTHING)
    found = []
    for loop in ("graph", "fit", "graph"):
        net = nets.model("norm")
        curves = _train(loop, source, net, objective=objective)
        found.append((_bytes(net), curves))
    assert found[0] == found[2]
    assert found[0][0] == found[1][0]
    plain = nets.model("norm")
    _train("graph", nets.data(), plain, objective=objective)
    assert _bytes(plain) != found[0][0]


def test_where_an_augmented_epoch_is_cut_changes_nothing(tensorflow: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from lightexp.backend import training

    seen = []
    for first, seconds in ((8, 0.5), (1, 0.0), (1000, 1e9)):
        monkeypatch.setattr(training, "_FIRST_CALL", first)
        monkeypatch.setattr(training, "_SECONDS_A_CALL", seconds)
        net = nets.model("norm")
        seen.append((_train("graph", replace(nets.data(), augment=EVERYTHING), net), _bytes(net)))
    assert seen[0] == seen[1] == seen[2]


def test_every_step_and_every_epoch_draws_anew(tensorflow: None) -> None:
    """Of a constant image all that a hole of half its size leaves is seen in the logits."""
    import tensorflow as tf

    from lightexp.backend.session import import_keras

    seen: list[bytes] = []

    class Recording(import_keras().layers.Layer):  # type: ignore[misc]
        def call(self, inputs: Any, training: bool = False) -> Any:
            if training:
                tf.py_function(lambda x: seen.append(x.numpy().tobytes()), [inputs], [])
            return inputs

    net = nets.model("dense")
    net = import_keras().Model(net.inputs, net(Recording()(net.inputs[0])))
    ones = Split(np.ones((32, *nets.SHAPE), np.float32), np.zeros(32, np.int32))
    _train("graph", Data("ones", ones, ones, ones, nets.CLASSES, augment=Augment(cutout=3)), net, epochs=3)
    assert len(seen) == len(set(seen)) == 3 * 2


@dataclass(frozen=True)
class _Labelled(TrainingObjective):
    """What labels and teachers say, whatever the logits: 10 a class, and the teacher's first logit."""

    @property
    def teachers(self) -> dict[str, Any]:
        return {"teacher": "control"}

    def loss(self, logits: Any, labels: Any, teachers: Mapping[str, Any]) -> Any:
        import tensorflow as tf

        return 10 * tf.cast(labels, tf.float32) + teachers["teacher"][:, 0] + 0 * logits[:, 0]


@pytest.mark.parametrize("loop", ["graph", "fit"])
def test_losses_labels_and_teachers_are_mixed_as_the_examples_are(tensorflow: None, loop: str) -> None:
    import tensorflow as tf

    from lightexp.backend.training import TeacherSignals, Trainer

    source = replace(nets.data(), augment=Augment(mixup=0.5))
    logits = np.random.default_rng(3).normal(size=(nets.EXAMPLES, nets.CLASSES)).astype(np.float32)
    chosen = nets.settings(objective=_Labelled(), loop=loop, epochs=1)
    history = Trainer(nets.model("dense"), chosen, source, 5, TeacherSignals({"teacher": logits})).run(nets.Quiet())
    order = tf.random.experimental.stateless_shuffle(tf.range(nets.EXAMPLES), seed=[5, 0]).numpy()
    total = 0.0
    for step, start in enumerate(range(0, nets.EXAMPLES, chosen.batch_size), start=1):
        rows = order[start : start + chosen.batch_size]
        share = augmented(source.inputs(source.train.x[rows]), source.augment, 5, step)[1]
        loss = 10 * source.train.y[rows] + logits[rows, 0]
        assert share is not None
        total += float(np.sum(share * loss + (1 - share) * np.roll(loss, 1)))
    assert history["loss"] == pytest.approx([total / nets.EXAMPLES], rel=1e-5)


def test_validation_is_not_augmented(tensorflow: None) -> None:
    """Under a learning rate too small to move anything both see the first weights."""
    found = []
    for augment in (Augment(), EVERYTHING):
        found.append(_train("graph", replace(nets.data(), augment=augment), nets.model("dense"), learning_rate=1e-12))
    assert found[0]["val_loss"] == found[1]["val_loss"]
    assert found[0]["loss"] != found[1]["loss"]


@pytest.mark.parametrize("loop", ["graph", "fit"])
def test_factors_of_each_channel_reach_training_and_validation(tensorflow: None, loop: str) -> None:
    """Raw values with factors train to the bytes of values that were scaled before."""
    from lightexp.backend.session import import_keras, reset_graph

    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (40, 6, 6, 3), np.uint8), rng.integers(0, nets.CLASSES, 40).astype(np.int32)
    raw = Split(x, y)
    factors: dict[str, Any] = {"scale": (0.5, 0.25, 2.0**-8), "offset": (-8.0, 1.0, -0.5)}  # exact in any order
    given = Data("raw", raw, raw, raw, nets.CLASSES, **factors)
    before = Split(given.inputs(x), y)
    assert not np.allclose(before.x[..., 0], before.x[..., 2])
    found = []
    for source in (given, Data("scaled", before, before, before, nets.CLASSES)):
        reset_graph(0)
        inputs = import_keras().layers.Input((6, 6, 3))
        flat = import_keras().layers.Flatten()(import_keras().layers.Conv2D(4, 3)(inputs))
        net = import_keras().Model(inputs, import_keras().layers.Dense(nets.CLASSES)(flat))
        found.append((_train(loop, source, net, epochs=2), _bytes(net)))
    assert found[0] == found[1]
