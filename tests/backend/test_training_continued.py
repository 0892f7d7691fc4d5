"""Tests that a continued training equals, byte for byte, one that was never interrupted."""

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
from tests.backend import tiny_keras

Parts = tuple[Any, Training, Data, Any, Any]


def build_pruned() -> Parts:
    """Build a pruned model in training with a hint, which has variables of its own."""
    from lightexp.backend.features import FeatureMatcher
    from lightexp.backend.pruning import PruningMasks

    net, hint = tiny_keras.make_model("dropout"), Hint(layers={"hidden": "hidden"})
    masks = PruningMasks(tiny_keras.list_kernels(net), [([0, 1], Schedule(0.0, 0.6, 0, 8, 2))], 20, None)
    settings = tiny_keras.make_settings(objective=hint, learning_rate_schedule="cosine")
    features = FeatureMatcher(net, tiny_keras.make_model("dense", 3), hint, 5)
    return net, settings, replace(tiny_keras.make_data(), augment=Augment(shift=1)), masks, features


def build_tied() -> Parts:
    """Build a model in simulated 8 bits with tied weights and attention transfer."""
    from lightexp.backend import qat
    from lightexp.backend.features import FeatureMatcher
    from lightexp.backend.tied_weights import TiedWeights

    net, attention = tiny_keras.make_model("norm"), Attention(layers={"conv": "conv"})
    for kernel in tiny_keras.list_kernels(net):
        kernel.assign(np.round(kernel.numpy() * 8) / 8)
    net, _ = qat.simulate_int8(net, ACTIVATIONS)
    source = replace(tiny_keras.make_data(), augment=Augment(mixup=0.3))
    qat.find_ranges(net, source.inputs(source.train.x))
    schedule: dict[str, Any] = {"learning_rate_schedule": "step", "decay_epochs": 1, "decay_factor": 0.5}
    settings = tiny_keras.make_settings(objective=attention, optimizer="sgd", **schedule)
    features = FeatureMatcher(net, tiny_keras.make_model("norm", 3), attention, 5)
    return net, settings, source, TiedWeights(qat.list_kernels(net), True, True), features


def build_on_grids() -> Parts:
    """Build a model with weights on learned grids."""
    from lightexp.backend.grid_weights import GridWeights, list_grid_tensors

    net = tiny_keras.make_model("norm")
    tensors = list_grid_tensors(net, {"conv": 1.0, "hidden": 1.0}, {"conv": 7, "hidden": None}, True)
    return net, tiny_keras.make_settings(), tiny_keras.make_data(), GridWeights(tensors, 0.1, 10), None


def build_streamed() -> Parts:
    return (
        tiny_keras.make_model("dropout"),
        tiny_keras.make_settings(optimizer="adamw", loop="fit"),
        tiny_keras.make_data(),
        None,
        None,
    )


BUILDERS = {"pruned": build_pruned, "tied": build_tied, "on grids": build_on_grids, "streamed": build_streamed}


def build_trainer(parts: Parts) -> Any:
    from lightexp.backend.training import TeacherSignals, Trainer

    net, settings, data, masks, features = parts
    soft = np.random.default_rng(2).normal(size=(tiny_keras.EXAMPLES, tiny_keras.CLASSES)).astype(np.float32)
    teachers = TeacherSignals(dict.fromkeys(settings.objective.teachers, soft), features)
    return Trainer(net, settings, data, 5, teachers, masks)


def weight_bytes(net: Any) -> list[bytes]:
    return [weight.tobytes() for weight in net.get_weights()]


def drop_seconds(history: dict[str, list[float]]) -> dict[str, list[float]]:
    return {name: values for name, values in history.items() if name != "seconds"}


@pytest.mark.parametrize("kind", BUILDERS)
def test_continued_training_equals_uninterrupted(tensorflow: None, tmp_path: Path, kind: str) -> None:
    uninterrupted = BUILDERS[kind]()
    curves = build_trainer(uninterrupted).run(tiny_keras.CountingProgress())
    for first, stop in ((None, 1), (1, 3), (3, None)):
        parts, progress = BUILDERS[kind](), tiny_keras.CountingProgress()
        trainer = build_trainer(parts)
        if first:
            trainer.load_state(tmp_path / f"{first}.npz")
        continued = trainer.run(progress, stop)
        assert int(min(progress.steps)) >= (first or 0)  # finished epochs are not repeated
        assert {len(values) for values in continued.values()} == {stop or 4}
        if stop:
            trainer.save_state(tmp_path / f"{stop}.npz")
            assert weight_bytes(parts[0]) != weight_bytes(uninterrupted[0])
    assert weight_bytes(parts[0]) == weight_bytes(uninterrupted[0])
    assert drop_seconds(continued) == drop_seconds(curves)
    assert continued["seconds"][0] != curves["seconds"][0]  # the first epoch's time is that of the first part


def test_every_saved_variable_changes_in_training(tensorflow: None, tmp_path: Path) -> None:
    """Each saved variable differs from its initial value, so that losing it would change the result."""
    first = build_trainer(build_pruned())
    first.run(tiny_keras.CountingProgress(), 2)
    first.save_state(tmp_path / "state.npz")
    with np.load(tmp_path / "state.npz") as state:
        arrays = dict(state)
    build_trainer(build_pruned()).save_state(tmp_path / "initial.npz")
    with np.load(tmp_path / "initial.npz") as state:
        initial = dict(state)
    variables = [name for name in sorted(arrays) if name.startswith("v")]
    assert variables == sorted(initial)
    assert not [name for name in variables if initial[name].tobytes() == arrays[name].tobytes()]
