"""Tests of saving and loading Keras models."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lightexp.core.protocols import TFLITE, Layer
from tests.backend import tiny_keras


def train_and_save(folder: Path, kind: str, seed: int = 0) -> bytes:
    from lightexp.backend import keras_files
    from lightexp.backend.training import Trainer

    net = tiny_keras.make_model(kind, seed)
    Trainer(net, tiny_keras.make_settings(epochs=2), tiny_keras.make_data(), seed).run(tiny_keras.CountingProgress())
    folder.mkdir()
    keras_files.save_model(net, folder)
    return (folder / TFLITE).read_bytes()


@pytest.mark.parametrize("kind", ["norm", "dropout"])
def test_same_seed_gives_the_same_file(tensorflow: None, tmp_path: Path, kind: str) -> None:
    first = train_and_save(tmp_path / "first", kind)
    train_and_save(tmp_path / "other", "dense", seed=1)
    assert train_and_save(tmp_path / "again", kind) == first
    assert train_and_save(tmp_path / "seed", kind, seed=1) != first
    for name in ("architecture.json", "weights.npz"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_load_model_returns_what_was_saved(tensorflow: None, tmp_path: Path) -> None:
    from lightexp.backend import keras_files, litert

    net = tiny_keras.make_model("norm", seed=4)
    source = tiny_keras.make_data()
    expected = net(source.inputs(source.train.x)).numpy()
    weights = net.get_weights()
    keras_files.save_model(net, tmp_path)
    first, second = keras_files.load_model(tmp_path), keras_files.load_model(tmp_path)
    for saved, loaded in zip(weights, first.get_weights(), strict=True):
        np.testing.assert_array_equal(saved, loaded)
    np.testing.assert_array_equal(first(source.inputs(source.train.x)).numpy(), expected)
    shipped = litert.compute_logits(tmp_path / TFLITE, source.train.x, source, threads=1)
    np.testing.assert_allclose(shipped, expected, atol=1e-5)
    first.set_weights([weight + 1 for weight in weights])  # the second does not share them
    np.testing.assert_array_equal(second.get_weights()[0], weights[0])
    assert json.loads((tmp_path / "architecture.json").read_text())["class_name"] == "Functional"


def test_describe_layers_uses_the_main_kernel(tensorflow: None) -> None:
    from lightexp.backend.keras_files import describe_layers
    from lightexp.backend.session import import_keras, reset_graph

    reset_graph(0)
    kl = import_keras().layers
    inputs = kl.Input((6, 6, 2))
    x = kl.BatchNormalization(name="norm")(kl.SeparableConv2D(5, 3, name="separable")(inputs))
    x = kl.Flatten()(kl.DepthwiseConv2D(3, name="depthwise")(x))
    net = import_keras().Model(inputs, kl.Dense(3, name="logits")(x))
    assert describe_layers(net)[1:] == [
        Layer("norm", "BatchNormalization", None, 20),
        Layer("depthwise", "DepthwiseConv2D", (3, 3, 5, 1), 50, "linear"),
        Layer("logits", "Dense", (20, 3), 63, "linear"),
    ]
    assert describe_layers(net)[0].parameters == 3 * 3 * 2 + 2 * 5 + 5
