"""Tests of trained files whose outputs are sigmoids or have their input's shape: read, measured and compressed."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightexp.core.data import Data, Split
from lightexp.core.errors import BadInput
from lightexp.models.from_file import FromFile
from lightexp.models.trainable_tflite import TrainableTFLite
from lightexp.tasks.multilabel import Multilabel
from lightexp.tasks.reconstruction import Reconstruction
from tests.tasks.runs import TaskRuns

SHAPE = (6, 4, 2)
X = np.random.default_rng(0).random((60, *SHAPE), np.float32)
Y = np.stack([X.mean(axis=(1, 2, 3)) > 0.5, X[:, 0, 0, 0] > 0.4, X[:, 1, 1, 1] > 0.7], axis=1).astype(np.float32)
TAGS = Multilabel().prepare(Data("tags", Split(X, Y), Split(X, Y), Split(X, Y), 0))
IMAGES = Reconstruction().prepare(Data("images", *[Split(X, np.arange(60, dtype=np.int32) % 2)] * 3, 2))
ENDINGS = ["h5", "keras", "tflite"]


@pytest.fixture(scope="module")
def files(tensorflow: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a net of three sigmoids and an autoencoder, in each kind of file, and their outputs."""
    from lightexp.backend.converter import convert_to_float32
    from lightexp.backend.session import import_keras, reset_graph

    folder, layers = tmp_path_factory.mktemp("files"), import_keras().layers
    for name in ("tags", "images"):
        reset_graph(0)
        net: list[Any] = [layers.Input(SHAPE), layers.Conv2D(4, 3, padding="same", activation="relu")]
        if name == "tags":
            net += [layers.Flatten(), layers.Dense(3, activation="sigmoid")]
        else:
            net += [layers.Conv2D(2, 3, padding="same", activation="sigmoid")]
        model = import_keras().Sequential(net)
        with pytest.warns(UserWarning, match="HDF5"):
            model.save(folder / f"{name}.h5")
        model.save(folder / f"{name}.keras")
        (folder / f"{name}.tflite").write_bytes(convert_to_float32(model))
        np.save(folder / f"{name}.npy", model(X).numpy())
    return folder


def compute_outputs(path: Path, data: Data, **settings: Any) -> Any:
    """Return the outputs of a file by LiteRT or Keras, without a final activation of the task."""
    if path.suffix == ".tflite":
        from lightexp.backend.litert import compute_logits

        file = FromFile(str(path), **settings)
        file.check(SHAPE, data.outputs)
        return compute_logits(path, data.val.x, file.select_view(data), 1)
    return FromFile(str(path), **settings).load(SHAPE, data.outputs, data.task)(data.val.x).numpy()


@pytest.mark.parametrize("ending", ENDINGS)
def test_sigmoids_become_logits(files: Path, ending: str) -> None:
    probabilities = np.load(files / "tags.npy")
    logits = compute_outputs(files / f"tags.{ending}", TAGS)
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), probabilities, atol=1e-5)
    if ending == "tflite":
        rebuilt = TrainableTFLite(str(files / "tags.tflite")).load(SHAPE, 3, TAGS.task)
        np.testing.assert_allclose(rebuilt(X), logits, atol=1e-4)


@pytest.mark.parametrize("ending", ENDINGS)
def test_outputs_of_the_inputs_shape_stay_as_they_are(files: Path, ending: str) -> None:
    normal = X[::2]
    expected = np.load(files / "images.npy")[::2].reshape(len(normal), -1)
    np.testing.assert_allclose(compute_outputs(files / f"images.{ending}", IMAGES), expected, atol=1e-5)
    if ending == "tflite":
        rebuilt = TrainableTFLite(str(files / "images.tflite")).load(SHAPE, IMAGES.outputs, IMAGES.task)
        np.testing.assert_allclose(rebuilt(normal), expected, atol=1e-5)


def test_files_of_keras_3_are_read(tensorflow: None, tmp_path: Path) -> None:
    with zipfile.ZipFile(Path(__file__).parents[1] / "backend" / "keras_3_files.zip") as archive:
        for name, data in {"labels": TAGS, "autoencoder": IMAGES}.items():
            for ending in ("keras", "npz"):
                archive.extract(f"{name}.{ending}", tmp_path)
            with np.load(tmp_path / f"{name}.npz") as arrays:
                x, expected = arrays["inputs"], arrays["outputs"].reshape(16, -1)
            outputs = FromFile(str(tmp_path / f"{name}.keras")).load(SHAPE, data.outputs, data.task)(x).numpy()
            outputs = outputs if data is IMAGES else 1 / (1 + np.exp(-outputs))
            np.testing.assert_allclose(outputs, expected, atol=1e-5)


def test_built_models_lack_final_sigmoids_of_labels_only(files: Path) -> None:
    tags = FromFile(str(files / "tags.h5")).build(SHAPE, 3)
    assert tags.layers[-1].activation.__name__ == "linear"
    images = FromFile(str(files / "images.h5")).build(SHAPE, IMAGES.outputs)
    assert "sigmoid" in {getattr(getattr(layer, "activation", None), "__name__", "") for layer in images.layers}


def test_labels_in_another_order_are_moved(files: Path) -> None:
    view = FromFile(str(files / "tags.tflite"), labels=[2, 0, 1]).select_view(replace(TAGS, names=("a", "b", "c")))
    assert view.names == ("c", "a", "b")
    np.testing.assert_array_equal(view.val.y, Y[:, [2, 0, 1]])


@pytest.mark.parametrize(("name", "data"), [("tags", IMAGES), ("images", TAGS)])
@pytest.mark.parametrize("ending", ["h5", "tflite"])
def test_file_of_another_task_is_refused(files: Path, name: str, data: Data, ending: str) -> None:
    with pytest.raises(BadInput, match="the data need"):
        compute_outputs(files / f"{name}.{ending}", data)


@pytest.mark.parametrize(
    ("name", "ending", "pipeline"),
    [("tags", "h5", "quantize pipeline.stages.quantize.scheme=int8"), ("images", "tflite", "prune_int8")],
)
def test_file_is_measured_and_compressed(
    files: Path, name: str, ending: str, pipeline: str, task_runs: TaskRuns
) -> None:
    data = TAGS if name == "tags" else IMAGES
    labels = Y if name == "tags" else np.arange(60) % 2
    np.savez(files / f"{name}.npz", x_train=X, y_train=labels, x_val=X, y_val=labels, x_test=X, y_test=labels)
    task = "multilabel" if name == "tags" else "reconstruction"
    dataset = [f"task={task}", "dataset=arrays", f"dataset.path={files / f'{name}.npz'}"]
    model = ["model=from_file", f"model.path={files / f'{name}.{ending}'}"]
    record = task_runs.run(*dataset, *model, *f"pipeline={pipeline}".split(), epochs=9)
    assert record.status == "done"
    outputs = compute_outputs(files / f"{name}.{ending}", data)
    expected = data.task.compute_primary(outputs, data.compute_targets(data.val), data)
    assert record.stages[0].metric(f"{data.task.primary}/val") == pytest.approx(expected, rel=1e-4)
    assert task_runs.read_graph(record).quantized
    assert {"images": "auc/test", "tags": "average_precision/test"}[name] in record.metrics
