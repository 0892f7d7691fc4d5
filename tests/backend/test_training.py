"""Tests of the training loops, early stopping and learning-rate schedules."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lightexp.core import memmap
from lightexp.core.data import Data, Split
from lightexp.core.errors import RunFailed
from lightexp.core.protocols import TrainingObjective
from lightexp.core.schedule import Schedule
from lightexp.core.training import Training
from lightexp.objectives.cross_entropy import CrossEntropy
from lightexp.objectives.distill import Distillation
from tests.backend import tiny_keras

CURVES = {"loss", "accuracy", "val_loss", "val_accuracy", "seconds"}


Curves = dict[str, list[float]]


def train(net: Any, chosen: Training, source: Data | None = None, seed: int = 5, **parts: Any) -> Curves:
    from lightexp.backend.training import TeacherSignals, Trainer

    teachers = TeacherSignals(parts.get("teachers", {}))
    trainer = Trainer(net, chosen, source or tiny_keras.make_data(), seed, teachers, parts.get("masks"))
    return trainer.run(tiny_keras.CountingProgress())


def weight_bytes(net: Any) -> list[bytes]:
    return [weight.tobytes() for weight in net.get_weights()]


def drop_seconds(history: Curves) -> Curves:
    return {name: values for name, values in history.items() if name != "seconds"}


@pytest.mark.parametrize("l2", [0.0, 0.05])
def test_graph_trains_as_keras_fit_does(tensorflow: None, l2: float) -> None:
    """Also with batch normalisation, regularisation and a smaller last batch."""
    chosen = tiny_keras.make_settings()
    model, keras_model, plain = (
        tiny_keras.make_model("norm", l2=l2),
        tiny_keras.make_model("norm", l2=l2),
        tiny_keras.make_model("norm"),
    )
    start = [weight.copy() for weight in model.get_weights()]
    train(model, chosen)
    tiny_keras.fit_with_keras(keras_model, tiny_keras.make_data(), chosen, 5, [])
    names = [weight.name for weight in model.weights]
    for name, weights, expected, first in zip(
        names, model.get_weights(), keras_model.get_weights(), start, strict=True
    ):
        np.testing.assert_allclose(weights, expected, atol=2e-5, err_msg=name)
        assert np.abs(weights - first).max() > 1e-3, name  # also the moving mean and variance
    if l2:
        train(plain, chosen)
        differences = [np.abs(a - b).max() for a, b in zip(model.get_weights(), plain.get_weights(), strict=True)]
        assert max(differences) > 1e-2  # the penalty has an effect


@pytest.mark.parametrize("kind", ["norm", "dense"])
def test_graph_and_fit_train_to_the_same_bytes(tensorflow: None, kind: str) -> None:
    teachers = {
        "teacher": np.random.default_rng(0).normal(size=(tiny_keras.EXAMPLES, tiny_keras.CLASSES)).astype(np.float32)
    }
    changes = {"objective": Distillation()} if kind == "dense" else {}
    graph, fit = tiny_keras.make_model(kind), tiny_keras.make_model(kind)
    arguments = {"teachers": teachers if changes else {}}
    curves = train(graph, tiny_keras.make_settings(loop="graph", **changes), **arguments)
    others = train(fit, tiny_keras.make_settings(loop="fit", **changes), **arguments)
    assert weight_bytes(graph) == weight_bytes(fit)
    assert set(curves) == set(others) == CURVES
    assert {len(values) for values in (*curves.values(), *others.values())} == {4}
    for name, values in drop_seconds(curves).items():
        assert values == pytest.approx(others[name], rel=1e-6)
    assert curves["loss"][-1] < curves["loss"][0]


def copy_to_disk(array: NDArray[Any]) -> NDArray[np.generic]:
    copy = memmap.allocate(array.shape, array.dtype, 0)
    copy[...] = array
    return copy


@pytest.mark.parametrize("on_disk", [("train",), ("val",), ("train", "val", "test")])
def test_splits_on_disk_train_to_the_same_bytes(tensorflow: None, on_disk: tuple[str, ...]) -> None:
    source = tiny_keras.make_data(train=1100)  # validation takes 500 examples at once
    source = replace(source, val=source.train)
    teachers = {"teacher": np.random.default_rng(0).normal(size=(1100, tiny_keras.CLASSES)).astype(np.float32)}
    disk = replace(
        source, **{name: Split(copy_to_disk(source.splits[name].x), source.splits[name].y) for name in on_disk}
    )
    assert [name for name, split in disk.splits.items() if split.on_disk] == list(on_disk)
    results = []
    for data in (source, disk):
        net = tiny_keras.make_model("norm")
        curves = train(net, tiny_keras.make_settings(objective=Distillation(), epochs=2), data, teachers=teachers)
        results.append((weight_bytes(net), curves["val_loss"], curves["val_accuracy"], curves["accuracy"]))
    assert results[0] == results[1]


STREAMED = """
import resource, sys
from dataclasses import replace
from pathlib import Path
import numpy as np
from lightexp.backend import converter, litert, session
from lightexp.core.data import Data, Split
from lightexp.core.preprocessing import Augment
from lightexp.core.protocols import TFLITE
from lightexp.core.training import Training
from lightexp.core import memmap
from lightexp.objectives.distill import Distillation

session.start_tensorflow(1)
from lightexp.backend.training import TeacherSignals, Trainer

class Silent:
    def step(self, done, total, **figures): pass
    def say(self, words): pass

def use(count):
    x = memmap.allocate((count, 32, 32, 3), np.uint8, 0)
    split = Split(x, (np.arange(count) % 2).astype(np.int32))
    data = Data("large", split, split, split, 2, 1 / 255, augment=Augment(flip=True))
    session.reset_graph(0)
    kl = session.import_keras().layers
    inputs = kl.Input((32, 32, 3))
    net = session.import_keras().Model(inputs, kl.Dense(2)(kl.Flatten()(kl.AveragePooling2D(16)(inputs))))
    file = Path(sys.argv[1])
    file.write_bytes(converter.convert_to_float32(net))
    teachers = {"teacher": litert.compute_logits(file, split.x, data, 1)}
    litert.compute_logits(file, split.x[:2000], data, 1, foreign=True)
    settings = Training(objective=Distillation(), epochs=1, batch_size=500)
    Trainer(net, settings, data, 0, TeacherSignals(teachers)).run(Silent())
    assert len(split.digest) == 64 and len(split.sample(200)) == 200
    return x

use(600)
used = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmData"))
resource.setrlimit(resource.RLIMIT_DATA, (used * 1024 + 100_000_000,) * 2)
x = use(50_000)
try:
    np.array(x)
except MemoryError:
    print(x.nbytes)
"""


@pytest.mark.slow
def test_splits_on_disk_are_never_all_in_memory(tmp_path: Path) -> None:
    """A process may take 100 MB more than with few examples; mapped files do not count."""
    completed = subprocess.run([sys.executable, "-c", STREAMED, tmp_path / "m.tflite"], capture_output=True, text=True)
    assert completed.returncode == 0, completed.stderr
    assert int(completed.stdout) > 150_000_000


def test_masks_work_in_both_loops(tensorflow: None) -> None:
    from lightexp.backend.pruning import PruningMasks

    models, curves = [tiny_keras.make_model("dense"), tiny_keras.make_model("dense")], []
    for net, loop in zip(models, ("graph", "fit"), strict=True):
        masks = PruningMasks(tiny_keras.list_kernels(net), [([0, 1], Schedule(0.0, 0.75, 0, 10, 2))], 20, None)
        curves.append(train(net, tiny_keras.make_settings(loop=loop), masks=masks))
        assert masks.compute_sparsity() == pytest.approx(0.75, abs=0.01)
    assert weight_bytes(models[0]) == weight_bytes(models[1])
    assert set(curves[0]) == CURVES | {"sparsity"}
    assert curves[0]["sparsity"] == curves[1]["sparsity"]
    assert curves[0]["sparsity"] == sorted(curves[0]["sparsity"])


@dataclass(frozen=True)
class MatchingRows(TrainingObjective):
    """Zero where the teachers' logits hold the example's row."""

    def loss(self, logits: Any, labels: Any, teachers: Mapping[str, Any]) -> Any:
        import tensorflow as tf

        rows = {role: logit[:, 0] - tf.cast(labels, tf.float32) for role, logit in sorted(teachers.items())}
        return rows["first"] ** 2 + (rows["second"] - 100) ** 2 + 0 * logits[:, 0]


@pytest.mark.parametrize("loop", ["graph", "fit"])
@pytest.mark.parametrize("shift", [0, 1])
def test_each_example_gets_its_own_teacher_logits(tensorflow: None, loop: str, shift: int) -> None:
    source = tiny_keras.make_data()
    rows = np.arange(tiny_keras.EXAMPLES, dtype=np.int32)
    source = Data("rows", Split(source.train.x, rows), source.val, source.test, tiny_keras.CLASSES)
    logits = np.repeat(np.roll(rows, shift)[:, None], tiny_keras.CLASSES, axis=1).astype(np.float32)
    teachers = {"second": logits + 100, "first": logits}
    history = train(
        tiny_keras.make_model("dense"),
        tiny_keras.make_settings(objective=MatchingRows(), loop=loop),
        source,
        teachers=teachers,
    )
    assert (max(history["loss"]) == 0) == (shift == 0)


def test_training_ignores_how_epochs_are_cut(tensorflow: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from lightexp.backend import epoch_loops, training

    results = []
    for first, seconds in ((8, 0.5), (1, 0.0), (2, 0.0), (1000, 1e9)):
        monkeypatch.setattr(epoch_loops, "FIRST_CALL_STEPS", first)
        monkeypatch.setattr(epoch_loops, "SECONDS_PER_CALL", seconds)
        net, progress = tiny_keras.make_model("dropout"), tiny_keras.CountingProgress()
        curves = training.Trainer(net, tiny_keras.make_settings(), tiny_keras.make_data(), 5).run(progress)
        results.append((weight_bytes(net), drop_seconds(curves), len(progress.steps)))
    assert [steps for *_, steps in results[1:]] == [4 * 5, 4 * 5 - 1, 4]
    for weights, curves, _ in results:
        assert (weights, curves) == results[0][:2]


def test_seed_decides_the_order(tensorflow: None) -> None:
    results = []
    for seed in (5, 5, 6):
        net = tiny_keras.make_model("dense")
        train(net, tiny_keras.make_settings(epochs=1), seed=seed)
        results.append(weight_bytes(net))
    assert results[0] == results[1] != results[2]


@dataclass(frozen=True)
class NegatedFirstLogit(TrainingObjective):
    """The first logit, negated: its gradient is constant."""

    def loss(self, logits: Any, labels: Any, teachers: Mapping[str, Any]) -> Any:
        return -logits[:, 0]


def build_linear(features: int = 1, outputs: int = 2) -> Any:
    from lightexp.backend.session import import_keras, reset_graph

    reset_graph(0)
    inputs = import_keras().layers.Input((features,))
    net = import_keras().Model(inputs, import_keras().layers.Dense(outputs, use_bias=False)(inputs))
    net.set_weights([np.full((features, outputs), 1e-3, np.float32)])
    return net


def make_ones(count: int, features: int = 1) -> Data:
    """Make examples that are all 1; eight in ten labels are 0, the others 1."""
    part = Split(np.ones((count, features), np.float32), (np.arange(count) % 5 == 0).astype(np.int32))
    return Data("ones", part, part, part, 2)


@pytest.mark.parametrize("rule", ["constant", "cosine", "step"])
@pytest.mark.parametrize("loop", ["graph", "fit"])
def test_learning_rate_schedule_reaches_the_optimizer(tensorflow: None, rule: str, loop: str) -> None:
    chosen = tiny_keras.make_settings(
        objective=NegatedFirstLogit(),
        loop=loop,
        epochs=6,
        batch_size=10,
        optimizer="sgd",
        momentum=0.0,
        learning_rate=0.1,
    )
    chosen = Training(**{**vars(chosen), "learning_rate_schedule": rule, "decay_epochs": 2, "decay_factor": 0.5})
    history = train(build_linear(), chosen, make_ones(30))
    rates = chosen.learning_rates(3)
    before = 1e-3 + np.concatenate([[0], np.cumsum(rates)[:-1]])  # the weight at each step
    assert history["loss"] == pytest.approx(list(-before.reshape(6, 3).mean(axis=1)), rel=1e-4)
    if rule != "constant":
        assert rates[-1] < rates[0] / 2


def make_stopping_settings(**changes: Any) -> Training:
    """Make settings under which validation loss falls until the first class has probability 0.8, then rises."""
    plain = {"objective": NegatedFirstLogit(), "epochs": 40, "batch_size": 10, "optimizer": "sgd", "momentum": 0.0}
    return tiny_keras.make_settings(**plain, learning_rate=0.02, early_stopping=3, **changes)


def test_early_stopping_restores_the_best_epoch(tensorflow: None) -> None:
    from lightexp.backend.training import Trainer

    net, source = build_linear(), make_ones(50)
    trainer = Trainer(net, make_stopping_settings(), source, 0)
    history = trainer.run(tiny_keras.CountingProgress())
    best = int(np.argmin(history["val_loss"]))
    assert best > 0
    assert len(history["val_loss"]) == best + 1 + 3 < 40
    kernel = net.get_weights()[0][0]
    share = math.exp(kernel[0]) / (math.exp(kernel[0]) + math.exp(kernel[1]))
    assert -0.8 * math.log(share) - 0.2 * math.log(1 - share) == pytest.approx(min(history["val_loss"]), rel=1e-5)


def test_early_stopping_waits_for_the_pruning_schedule(tensorflow: None) -> None:
    from lightexp.backend.pruning import PruningMasks

    net, source = build_linear(features=4), make_ones(50, features=4)
    net.set_weights([np.random.default_rng(0).uniform(0, 0.01, (4, 2)).astype(np.float32)])
    masks = PruningMasks(tiny_keras.list_kernels(net), [([0], Schedule(None, 0.5, 0, 100, 50))], 200, None)
    history = train(
        net, make_stopping_settings(), source, masks=masks
    )  # five steps an epoch: the schedule ends with epoch 20
    ended = 20
    assert int(np.argmin(history["val_loss"])) < ended - 3  # best epoch and patience are before the end of the schedule
    assert len(history["val_loss"]) > ended
    assert (net.get_weights()[0] == 0).mean() == 0.5
    losses = history["val_loss"][ended - 1 :]
    assert len(losses) == int(np.argmin(losses)) + 1 + 3


@pytest.mark.parametrize("loop", ["graph", "fit"])
def test_loss_that_is_not_finite_ends_training(tensorflow: None, loop: str) -> None:
    chosen = tiny_keras.make_settings(loop=loop, optimizer="sgd", learning_rate=1e30)
    with pytest.raises(RunFailed, match=r"loss is (nan|inf) in epoch [12]\..*learning_rate=1e\+30"):
        train(tiny_keras.make_model("dense"), chosen)


@pytest.mark.parametrize("loop", ["graph", "fit"])
def test_smaller_last_batch_counts_by_its_size(tensorflow: None, loop: str) -> None:
    """With a learning rate too small to change a weight, the curves are those of the initial weights."""
    source, net = tiny_keras.make_data(), tiny_keras.make_model("dense")
    logits = net(source.inputs(source.train.x)).numpy().astype(np.float64)
    log_probabilities = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    chosen = tiny_keras.make_settings(objective=CrossEntropy(), loop=loop, learning_rate=1e-12, epochs=1)
    history = train(net, chosen, source)
    assert history["loss"] == pytest.approx(
        [-log_probabilities[np.arange(tiny_keras.EXAMPLES), source.train.y].mean()], rel=1e-5
    )
    assert history["accuracy"] == pytest.approx([(logits.argmax(axis=1) == source.train.y).mean()])
