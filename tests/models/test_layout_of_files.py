"""Tests of files that take channels first or flat inputs, or give outputs with axes of length 1."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightexp.core.data import Data, Split
from lightexp.core.errors import BadInput
from lightexp.core.layout import LayoutChoice
from lightexp.models.from_file import FromFile
from lightexp.models.trainable_tflite import TrainableTFLite
from lightexp.runner.run import Runner
from lightexp.tasks.reconstruction import Reconstruction
from tests.runner.test_chance import Listener
from tests.tiny_runs import TinyRuns

SHAPE, CLASSES = (8, 6, 3), 4
X = np.random.default_rng(0).random((40, *SHAPE), np.float32)
SPLIT = Split(X, np.arange(40, dtype=np.int32) % CLASSES)
DATA = Data("noise", SPLIT, SPLIT, SPLIT, CLASSES, (1.0, 0.5, 2.0), (0.0, 0.1, 0.2))


def build_body(kl: Any) -> list[Any]:
    return [kl.Conv2D(4, 3, activation="relu"), kl.Flatten(), kl.Dense(CLASSES)]


BUILDERS: dict[str, Callable[[Any], list[Any]]] = {
    "plain": lambda kl: [kl.Input(SHAPE), *build_body(kl)],
    "nchw": lambda kl: [kl.Input((3, 8, 6)), kl.Permute((2, 3, 1)), *build_body(kl)],
    "flat": lambda kl: [kl.Input((144,)), kl.Reshape(SHAPE), *build_body(kl)],
    "flat_nchw": lambda kl: [kl.Input((144,)), kl.Reshape((3, 8, 6)), kl.Permute((2, 3, 1)), *build_body(kl)],
    "deep": lambda kl: [kl.Input(SHAPE), *build_body(kl), kl.Reshape((1, 1, CLASSES))],
}
"""Networks with the same weights and other ends."""


@pytest.fixture(scope="module")
def files(tensorflow: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with each network as `.tflite`, and some as `.keras`."""
    from lightexp.backend.converter import convert_to_float32
    from lightexp.backend.session import import_keras, reset_graph

    folder, weights = tmp_path_factory.mktemp("layouts"), None
    reset_graph(0)
    keras = import_keras()
    for name, build in BUILDERS.items():
        model = keras.Sequential(build(keras.layers))
        weights = weights or model.get_weights()
        model.set_weights(weights)
        (folder / f"{name}.tflite").write_bytes(convert_to_float32(model))
        if name in ("nchw", "flat", "deep"):
            model.save(folder / f"{name}.keras")
    return folder


def view(path: Path, **settings: Any) -> Data:
    model = FromFile(str(path), **settings)
    model.check(SHAPE, CLASSES)
    return model.select_view(DATA)


@pytest.mark.parametrize("name", ["nchw", "flat", "flat_nchw", "deep"])
@pytest.mark.parametrize("foreign", [False, True])
def test_files_of_every_layout_give_the_same(name: str, foreign: bool, files: Path) -> None:
    from lightexp.backend.litert import collect_ranges, compute_logits

    data = view(files / f"{name}.tflite", layout="nchw" if name == "flat_nchw" else "auto")
    expected = compute_logits(files / "plain.tflite", X, DATA, 1)
    logits = compute_logits(files / f"{name}.tflite", X, data, 1, batch=16, foreign=foreign)
    assert np.allclose(logits, expected, atol=1e-5)
    assert np.ptp(expected) > 0.1
    inputs = DATA.inputs(X)
    ranges = [collect_ranges(files / f"{n}.tflite", inputs, 1, layout=data.layout) for n in ("plain", name)]
    assert np.allclose(*(np.nanmax(values) for values in ranges))
    assert np.allclose(*(np.sort(values[~np.isnan(values[:, 0])])[-1] for values in ranges), atol=1e-5)


@pytest.mark.parametrize("name", ["nchw", "flat", "flat_nchw", "deep"])
def test_files_of_every_layout_are_rebuilt(name: str, files: Path) -> None:
    from lightexp.backend.litert import compute_logits

    layout: LayoutChoice = "nchw" if name == "flat_nchw" else "auto"
    model = TrainableTFLite(str(files / f"{name}.tflite"), layout=layout).load(SHAPE, CLASSES)
    expected = compute_logits(files / "plain.tflite", X, DATA, 1)
    assert np.allclose(model(DATA.inputs(X)).numpy(), expected, atol=1e-5)


def test_layout_is_said(files: Path) -> None:
    assert view(files / "plain.tflite").notes == view(files / "deep.tflite").notes == ()
    assert (
        "(3, 8, 6): examples of (8, 6, 3) are given to it with channels first" in view(files / "nchw.tflite").notes[0]
    )
    assert "set model.layout=nchw" in view(files / "flat.keras").notes[0]


@pytest.mark.parametrize("name", ["nchw", "flat", "deep"])
def test_keras_files_become_models_of_the_data(name: str, files: Path) -> None:
    from lightexp.backend.litert import compute_logits

    model = FromFile(str(files / f"{name}.keras")).load(SHAPE, CLASSES)
    assert (model.input_shape[1:], model.output_shape[1:]) == (SHAPE, (CLASSES,))
    assert not any("Functional" in type(layer).__name__ for layer in model.layers)
    expected = compute_logits(files / "plain.tflite", X, DATA, 1)
    assert np.allclose(model(DATA.inputs(X)).numpy(), expected, atol=1e-5)


def test_what_does_not_fit_is_refused(files: Path) -> None:
    def refusal(shape: tuple[int, ...], classes: int = CLASSES, name: str = "plain.tflite") -> str:
        with pytest.raises(BadInput) as caught:
            FromFile(str(files / name)).check(shape, classes)
        return str(caught.value)

    assert "or set dataset.size=[8,6] of an image_folder" in refusal((9, 9, 3))
    assert "or dataset.classes=4 if the data lack some of its classes" in refusal(SHAPE, 3)
    assert "dataset.size" not in refusal((8, 6, 1))
    assert "maps (3, 8, 6) to (4,); the data need (8, 6, 1)" in refusal((8, 6, 1), name="nchw.tflite")
    with pytest.raises(BadInput, match=r"maps \(3, 8, 6\)"):
        FromFile(str(files / "nchw.tflite"), layout="nhwc").check(SHAPE, CLASSES)


def test_nchw_file_is_quantized_and_measured(files: Path, tiny_runs: TinyRuns, tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", x=(X * 255).astype(np.uint8), y=SPLIT.y)
    listener, accuracies = Listener(), {}
    for name in ("plain", "nchw"):
        model = ["model=from_file", f"model.path={files / name}.tflite", f"dataset.path={tmp_path / 'mine.npz'}"]
        overrides = [*model, "pipeline=quantize", "pipeline.stages.quantize.scheme=int8"]
        record = Runner(listener).run(tiny_runs.compose_settings(*overrides), overrides)
        accuracies[name] = [record.stages[0].metric("loss/val"), record.stages[-1].metric("loss/val")]
    assert accuracies["nchw"][0] == pytest.approx(accuracies["plain"][0], abs=1e-5)
    assert accuracies["nchw"][1] == pytest.approx(accuracies["plain"][1], abs=0.02)
    assert [message for message in listener.messages if "given to it with channels first" in message]
    assert replace(DATA, layout="nchw").key == DATA.key


def build_autoencoder(kl: Any, shape: tuple[int, ...]) -> list[Any]:
    """Return layers from channels first through a small image and back, to outputs of a shape."""
    image = [kl.Input((3, 8, 6)), kl.Permute((2, 3, 1)), kl.Conv2D(3, 3, padding="same", activation="sigmoid")]
    return [*image, kl.Permute((3, 1, 2)), kl.Reshape(shape)]


@pytest.mark.parametrize("shape", [(3, 8, 6), (144,)])
def test_outputs_of_autoencoders_are_in_the_order_of_the_data(shape: Any, tensorflow: None, tmp_path: Path) -> None:
    from lightexp.backend import tflite_import
    from lightexp.backend.converter import convert_to_float32
    from lightexp.backend.litert import compute_logits
    from lightexp.backend.session import import_keras, reset_graph

    reset_graph(0)
    model = import_keras().Sequential(build_autoencoder(import_keras().layers, shape))
    model.save(tmp_path / "net.keras")
    (tmp_path / "net.tflite").write_bytes(convert_to_float32(model))
    file = FromFile(str(tmp_path / "net.tflite"))
    data = file.select_view(Reconstruction(normal=[0]).prepare(DATA))
    inputs, settings = data.inputs(data.val.x), {"shape": SHAPE, "classes": data.outputs}
    file.check(**settings)
    in_file_order = model(np.moveaxis(inputs, -1, 1)).numpy().reshape(-1, 3, 8, 6)
    expected = np.moveaxis(in_file_order, 1, -1).reshape(len(inputs), -1)
    np.testing.assert_allclose(compute_logits(file.file_path, data.val.x, data, 1), expected, atol=1e-5)
    keras_file = FromFile(str(tmp_path / "net.keras"))
    np.testing.assert_allclose(keras_file.load(task=data.task, **settings)(inputs), expected, atol=1e-5)
    rebuilt = TrainableTFLite(str(file.file_path)).load(task=data.task, **settings)
    np.testing.assert_allclose(rebuilt(inputs), expected, atol=1e-5)
    assert tflite_import.compare_outputs(rebuilt, file.file_path, data) < 1e-5
