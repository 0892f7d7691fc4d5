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

from lightexp.core.data import Data, Split
from lightexp.core.errors import RunFailed
from lightexp.core.protocols import TrainingObjective
from lightexp.core.schedule import Schedule
from lightexp.core.training import Training
from lightexp.datasets import memmap
from lightexp.objectives.cross_entropy import CrossEntropy
from lightexp.objectives.distill import Distillation
from tests.backend import nets

CURVES = {"loss", "accuracy", "val_loss", "val_accuracy", "seconds"}


Curves = dict[str, list[float]]


def _train(net: Any, chosen: Training, source: Data | None = None, seed: int = 5, **words: Any) -> Curves:
    from lightexp.backend.training import TeacherSignals, Trainer

    teachers = TeacherSignals(words.get("teachers", {}))
    trainer = Trainer(net, chosen, source or nets.data(), seed, teachers, words.get("masks"))
    return trainer.run(nets.Quiet())


def _bytes(net: Any) -> list[bytes]:
    return [weight.tobytes() for weight in net.get_weights()]


def _figures(history: Curves) -> Curves:
    return {name: values for name, values in history.items() if name != "seconds"}


@pytest.mark.parametrize("l2", [0.0, 0.05])
def test_the_graph_trains_as_keras_fit_does(tensorflow: None, l2: float) -> None:
    """Batch normalisation's statistics, regularisation and the smaller last batch included."""
    chosen = nets.settings()
    ours, theirs, plain = (nets.model("norm", l2=l2), nets.model("norm", l2=l2), nets.model("norm"))
    start = [weight.copy() for weight in ours.get_weights()]
    _train(ours, chosen)
    nets.fit_by_hand(theirs, nets.data(), chosen, 5, [])
    names = [weight.name for weight in ours.weights]
    for name, mine, other, first in zip(names, ours.get_weights(), theirs.get_weights(), start, strict=True):
        np.testing.assert_allclose(mine, other, atol=2e-5, err_msg=name)
        assert np.abs(mine - first).max() > 1e-3, name  # moving mean and variance among them
    if l2:
        _train(plain, chosen)
        far = [np.abs(a - b).max() for a, b in zip(ours.get_weights(), plain.get_weights(), strict=True)]
        assert max(far) > 1e-2  # the penalty was there


@pytest.mark.parametrize("kind", ["norm", "dense"])
def test_graph_and_fit_are_one_training(tensorflow: None, kind: str) -> None:
    teachers = {"teacher": np.random.default_rng(0).normal(size=(nets.EXAMPLES, nets.CLASSES)).astype(np.float32)}
    changes = {"objective": Distillation()} if kind == "dense" else {}
    graph, fit = nets.model(kind), nets.model(kind)
    words = {"teachers": teachers if changes else {}}
    curves = _train(graph, nets.settings(loop="graph", **changes), **words)
    others = _train(fit, nets.settings(loop="fit", **changes), **words)
    assert _bytes(graph) == _bytes(fit)
    assert set(curves) == set(others) == CURVES
    assert {len(values) for values in (*curves.values(), *others.values())} == {4}
    for name, values in _figures(curves).items():
        assert values == pytest.approx(others[name], rel=1e-6)
    assert curves["loss"][-1] < curves["loss"][0]


def _on_disk(array: NDArray[Any]) -> NDArray[np.generic]:
    copy = memmap.allocate(array.shape, array.dtype, 0)
    copy[...] = array
    return copy


@pytest.mark.parametrize("kept", [("train",), ("val",), ("train", "val", "test")])
def test_what_is_on_disk_trains_to_the_bytes_of_what_is_in_memory(tensorflow: None, kept: tuple[str, ...]) -> None:
    source = nets.data(train=1100)  # validation takes 500 examples at once
    source = replace(source, val=source.train)
    teachers = {"teacher": np.random.default_rng(0).normal(size=(1100, nets.CLASSES)).astype(np.float32)}
    disk = replace(source, **{name: Split(_on_disk(source.splits[name].x), source.splits[name].y) for name in kept})
    assert [name for name, split in disk.splits.items() if split.on_disk] == list(kept)
    found = []
    for each in (source, disk):
        net = nets.model("norm")
        curves = _train(net, nets.settings(objective=Distillation(), epochs=2), each, teachers=teachers)
        found.append((_bytes(net), curves["val_loss"], curves["val_accuracy"], curves["accuracy"]))
    assert found[0] == found[1]


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
from lightexp.datasets import memmap
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


def test_what_is_on_disk_is_never_all_in_memory(tmp_path: Path) -> None:
    """The child may take 100 MB more than at its first, small time; mapped files do not count."""
    done = subprocess.run([sys.executable, "-c", STREAMED, tmp_path / "m.tflite"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 150_000_000


def test_masks_work_in_both_loops(tensorflow: None) -> None:
    from lightexp.backend.pruning import PruningMasks

    nets_, curves = [nets.model("dense"), nets.model("dense")], []
    for net, loop in zip(nets_, ("graph", "fit"), strict=True):
        masks = PruningMasks(nets.kernels(net), [([0, 1], Schedule(0.0, 0.75, 0, 10, 2))], 20, None)
        curves.append(_train(net, nets.settings(loop=loop), masks=masks))
        assert masks.compute_sparsity() == pytest.approx(0.75, abs=0.01)
    assert _bytes(nets_[0]) == _bytes(nets_[1])
    assert set(curves[0]) == CURVES | {"sparsity"}
    assert curves[0]["sparsity"] == curves[1]["sparsity"]
    assert curves[0]["sparsity"] == sorted(curves[0]["sparsity"])


@dataclass(frozen=True)
class _Matching(TrainingObjective):
    """Zero where the teacher's row is the example's."""

    def loss(self, logits: Any, labels: Any, teachers: Mapping[str, Any]) -> Any:
        import tensorflow as tf

        rows = {role: logit[:, 0] - tf.cast(labels, tf.float32) for role, logit in sorted(teachers.items())}
        return rows["first"] ** 2 + (rows["second"] - 100) ** 2 + 0 * logits[:, 0]


@pytest.mark.parametrize("loop", ["graph", "fit"])
@pytest.mark.parametrize("shift", [0, 1])
def test_each_example_meets_its_own_teachers_logits(tensorflow: None, loop: str, shift: int) -> None:
    source = nets.data()
    rows = np.arange(nets.EXAMPLES, dtype=np.int32)
    source = Data("rows", Split(source.train.x, rows), source.val, source.test, nets.CLASSES)
    logits = np.repeat(np.roll(rows, shift)[:, None], nets.CLASSES, axis=1).astype(np.float32)
    teachers = {"second": logits + 100, "first": logits}
    history = _train(nets.model("dense"), nets.settings(objective=_Matching(), loop=loop), source, teachers=teachers)
    assert (max(history["loss"]) == 0) == (shift == 0)


def test_where_an_epoch_is_cut_changes_nothing(tensorflow: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from lightexp.backend import epoch_loops, training

    seen = []
    for first, seconds in ((8, 0.5), (1, 0.0), (2, 0.0), (1000, 1e9)):
        monkeypatch.setattr(epoch_loops, "FIRST_CALL_STEPS", first)
        monkeypatch.setattr(epoch_loops, "SECONDS_PER_CALL", seconds)
        net, progress = nets.model("dropout"), nets.Quiet()
        curves = training.Trainer(net, nets.settings(), nets.data(), 5).run(progress)
        seen.append((_bytes(net), _figures(curves), len(progress.steps)))
    assert [steps for *_, steps in seen[1:]] == [4 * 5, 4 * 5 - 1, 4]
    for weights, curves, _ in seen:
        assert (weights, curves) == seen[0][:2]


def test_the_seed_decides_the_order(tensorflow: None) -> None:
    found = []
    for seed in (5, 5, 6):
        net = nets.model("dense")
        _train(net, nets.settings(epochs=1), seed=seed)
        found.append(_bytes(net))
    assert found[0] == found[1] != found[2]


@dataclass(frozen=True)
class _First(TrainingObjective):
    """The first logit, negated: its gradient never changes."""

    def loss(self, logits: Any, labels: Any, teachers: Mapping[str, Any]) -> Any:
        return -logits[:, 0]


def _linear(features: int = 1, outputs: int = 2) -> Any:
    from lightexp.backend.session import import_keras, reset_graph

    reset_graph(0)
    inputs = import_keras().layers.Input((features,))
    net = import_keras().Model(inputs, import_keras().layers.Dense(outputs, use_bias=False)(inputs))
    net.set_weights([np.full((features, outputs), 1e-3, np.float32)])
    return net


def _ones(count: int, features: int = 1) -> Data:
    """All inputs 1; eight in ten labels are 0, the rest 1."""
    part = Split(np.ones((count, features), np.float32), (np.arange(count) % 5 == 0).astype(np.int32))
    return Data("ones", part, part, part, 2)


@pytest.mark.parametrize("rule", ["constant", "cosine", "step"])
@pytest.mark.parametrize("loop", ["graph", "fit"])
def test_the_schedule_of_learning_rates_reaches_the_optimiser(tensorflow: None, rule: str, loop: str) -> None:
    chosen = nets.settings(
        objective=_First(), loop=loop, epochs=6, batch_size=10, optimizer="sgd", momentum=0.0, learning_rate=0.1
    )
    chosen = Training(**{**vars(chosen), "learning_rate_schedule": rule, "decay_epochs": 2, "decay_factor": 0.5})
    history = _train(_linear(), chosen, _ones(30))
    rates = chosen.learning_rates(3)
    before = 1e-3 + np.concatenate([[0], np.cumsum(rates)[:-1]])  # the weight at each step
    assert history["loss"] == pytest.approx(list(-before.reshape(6, 3).mean(axis=1)), rel=1e-4)
    if rule != "constant":
        assert rates[-1] < rates[0] / 2


def _stopping(**changes: Any) -> Training:
    """Validation loss falls until the first class is given its share of 0.8, then rises."""
    plain = {"objective": _First(), "epochs": 40, "batch_size": 10, "optimizer": "sgd", "momentum": 0.0}
    return nets.settings(**plain, learning_rate=0.02, early_stopping=3, **changes)


def test_early_stopping_stops_and_goes_back_to_the_best_epoch(tensorflow: None) -> None:
    from lightexp.backend.training import Trainer

    net, source = _linear(), _ones(50)
    trainer = Trainer(net, _stopping(), source, 0)
    history = trainer.run(nets.Quiet())
    best = int(np.argmin(history["val_loss"]))
    assert best > 0
    assert len(history["val_loss"]) == best + 1 + 3 < 40
    kernel = net.get_weights()[0][0]
    share = math.exp(kernel[0]) / (math.exp(kernel[0]) + math.exp(kernel[1]))
    assert -0.8 * math.log(share) - 0.2 * math.log(1 - share) == pytest.approx(min(history["val_loss"]), rel=1e-5)


def test_early_stopping_never_goes_back_before_the_pruning_schedules_end(tensorflow: None) -> None:
    from lightexp.backend.pruning import PruningMasks

    net, source = _linear(features=4), _ones(50, features=4)
    net.set_weights([np.random.default_rng(0).uniform(0, 0.01, (4, 2)).astype(np.float32)])
    masks = PruningMasks(nets.kernels(net), [([0], Schedule(None, 0.5, 0, 100, 50))], 200, None)
    history = _train(net, _stopping(), source, masks=masks)  # five steps an epoch: the schedule ends with epoch 20
    ended = 20
    assert int(np.argmin(history["val_loss"])) < ended - 3  # the best epoch, and the patience after it, are too early
    assert len(history["val_loss"]) > ended
    assert (net.get_weights()[0] == 0).mean() == 0.5
    kept = history["val_loss"][ended - 1 :]
    assert len(kept) == int(np.argmin(kept)) + 1 + 3


@pytest.mark.parametrize("loop", ["graph", "fit"])
def test_a_loss_that_is_not_finite_ends_the_run(tensorflow: None, loop: str) -> None:
    chosen = nets.settings(loop=loop, optimizer="sgd", learning_rate=1e30)
    with pytest.raises(RunFailed, match=r"loss is (nan|inf) in epoch [12]\..*learning_rate=1e\+30"):
        _train(nets.model("dense"), chosen)


@pytest.mark.parametrize("loop", ["graph", "fit"])
def test_the_smaller_last_batch_counts_by_its_size(tensorflow: None, loop: str) -> None:
    """Under a learning rate too small to move anything, the curves are those of the first weights."""
    source, net = nets.data(), nets.model("dense")
    logits = net(source.inputs(source.train.x)).numpy().astype(np.float64)
    likely = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    chosen = nets.settings(objective=CrossEntropy(), loop=loop, learning_rate=1e-12, epochs=1)
    history = _train(net, chosen, source)
    assert history["loss"] == pytest.approx([-likely[np.arange(nets.EXAMPLES), source.train.y].mean()], rel=1e-5)
    assert history["accuracy"] == pytest.approx([(logits.argmax(axis=1) == source.train.y).mean()])
