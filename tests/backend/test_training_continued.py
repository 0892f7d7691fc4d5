"""A training that is left and gone on with is, byte for byte, the one that was never left."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightexp.core.data import Data
from lightexp.core.preprocessing import Augment
from lightexp.core.schedule import Schedule
from lightexp.core.training import Training
from lightexp.objectives.attention import Attention
from lightexp.objectives.hint import Hint
from lightexp.stages.qat import ACTIVATIONS
from tests.backend import nets

Made = tuple[Any, Training, Data, Any, Any]


def _pruned() -> Made:
    """By a schedule, with a hint's own variables beside the model's."""
    from lightexp.backend.features import FeatureMatcher
    from lightexp.backend.pruning import PruningMasks

    net, hint = nets.model("dropout"), Hint(layers={"hidden": "hidden"})
    masks = PruningMasks(nets.kernels(net), [([0, 1], Schedule(0.0, 0.6, 0, 8, 2))], 20, None)
    settings = nets.settings(objective=hint, learning_rate_schedule="cosine")
    features = FeatureMatcher(net, nets.model("dense", 3), hint, 5)
    return net, settings, replace(nets.data(), augment=Augment(shift=1)), masks, features


def _tied() -> Made:
    """In simulated 8 bits, to look where its teacher does."""
    from lightexp.backend import qat
    from lightexp.backend.features import FeatureMatcher
    from lightexp.backend.tied_weights import TiedWeights

    net, attention = nets.model("norm"), Attention(layers={"conv": "conv"})
    for kernel in nets.kernels(net):
        kernel.assign(np.round(kernel.numpy() * 8) / 8)
    net, _ = qat.simulate_int8(net, ACTIVATIONS)
    source = replace(nets.data(), augment=Augment(mixup=0.3))
    qat.find_ranges(net, source.inputs(source.train.x))
    schedule: dict[str, Any] = {"learning_rate_schedule": "step", "decay_epochs": 1, "decay_factor": 0.5}
    settings = nets.settings(objective=attention, optimizer="sgd", **schedule)
    features = FeatureMatcher(net, nets.model("norm", 3), attention, 5)
    return net, settings, source, TiedWeights(qat.list_kernels(net), True, True), features


def _streamed() -> Made:
    return nets.model("dropout"), nets.settings(optimizer="adamw", loop="fit"), nets.data(), None, None


MADE = {"pruned": _pruned, "tied": _tied, "streamed": _streamed}


def _trainer(made: Made) -> Any:
    from lightexp.backend.training import TeacherSignals, Trainer

    net, settings, data, masks, features = made
    soft = np.random.default_rng(2).normal(size=(nets.EXAMPLES, nets.CLASSES)).astype(np.float32)
    teachers = TeacherSignals(dict.fromkeys(settings.objective.teachers, soft), features)
    return Trainer(net, settings, data, 5, teachers, masks)


def _bytes(net: Any) -> list[bytes]:
    return [weight.tobytes() for weight in net.get_weights()]


def _curves(history: dict[str, list[float]]) -> dict[str, list[float]]:
    return {name: values for name, values in history.items() if name != "seconds"}


@pytest.mark.parametrize("kind", MADE)
def test_going_on_is_training_straight_through(tensorflow: None, tmp_path: Path, kind: str) -> None:
    whole = MADE[kind]()
    curves = _trainer(whole).run(nets.Quiet())
    for first, stop in ((None, 1), (1, 3), (3, None)):
        made, progress = MADE[kind](), nets.Quiet()
        trainer = _trainer(made)
        if first:
            trainer.load_state(tmp_path / f"{first}.npz")
        found = trainer.run(progress, stop)
        assert int(min(progress.steps)) >= (first or 0)  # what is done is not done again
        assert {len(values) for values in found.values()} == {stop or 4}
        if stop:
            trainer.save_state(tmp_path / f"{stop}.npz")
            assert _bytes(made[0]) != _bytes(whole[0])
    assert _bytes(made[0]) == _bytes(whole[0])
    assert _curves(found) == _curves(curves)
    assert found["seconds"][0] != curves["seconds"][0]  # the first epoch's is that of the first part


def test_all_of_the_state_matters(tensorflow: None, tmp_path: Path) -> None:
    """Each of its arrays, were it lost, would change the result: nothing is kept for show."""
    first = _trainer(_pruned())
    first.run(nets.Quiet(), 2)
    first.save_state(tmp_path / "state.npz")
    with np.load(tmp_path / "state.npz") as state:
        arrays = dict(state)
    fresh = _trainer(_pruned())
    lost = [name for name in sorted(arrays) if name.startswith("v")]
    changed = [v.numpy().tobytes() != arrays[n].tobytes() for n, v in zip(lost, fresh._state, strict=True)]
    assert all(changed), [name for name, there in zip(lost, changed, strict=True) if not there]


def test_dropout_is_new_at_every_step_and_in_every_layer(tensorflow: None) -> None:
    import tensorflow as tf

    from lightexp.backend.randomness import seed_by_step
    from lightexp.backend.session import import_keras

    layers = import_keras().layers
    inputs = layers.Input((200,))
    model = import_keras().Model(
        inputs, [layers.Dropout(0.5)(inputs), layers.GaussianNoise(1.0)(inputs), layers.Dropout(0.5)(inputs)]
    )

    @tf.function
    def drawn(seed: int, step: Any) -> Any:
        with seed_by_step(model, seed, step):
            return model(tf.ones((1, 200)), training=True)

    def at(step: int, seed: int = 5) -> list[bytes]:
        return [found.numpy().tobytes() for found in drawn(seed, tf.constant(step, tf.int64))]

    seen = [each for values in (at(1), at(2), at(1, seed=6)) for each in values]
    assert len(set(seen)) == len(seen)
    assert at(2) == seen[3:6]
    dropped = np.frombuffer(seen[0], np.float32)
    assert set(np.unique(dropped)) == {0.0, 2.0}
    assert 60 < int(np.sum(dropped == 0)) < 140
    before = [layer._random_generator for layer in model.layers if hasattr(layer, "_random_generator")]
    assert {generator._rng_type for generator in before} == {"legacy_stateful"}  # as Keras had them
