"""Runs on model files that were trained elsewhere, in every format."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from lightexp.backend.flatbuffer import read_graph
from lightexp.core.errors import BadInput
from lightexp.core.record import Record
from tests.tiny_runs import TinyRuns

MISMATCH = "maps (8, 8, 1) to (4,); the data need (9, 9, 1) to (3,)"
ORDER = [2, 0, 3, 1]  # class of each output of the file `reordered`


@dataclass
class ModelFiles:
    """Files of one trained network; all but `logits` end in a softmax.

    Attributes:
        keras: `.h5`.
        saved: A SavedModel.
        tflite: Float `.tflite` with any batch size.
        single: Float `.tflite` with batch size 1.
        integer: `.tflite` with int8 weights, activations and inputs.
        logits: `.tflite` without the softmax.
        reordered: `.h5` whose outputs are in the order `ORDER`.
        accuracy: Validation accuracy, measured by Keras.
    """

    keras: Path
    saved: Path
    tflite: Path
    single: Path
    integer: Path
    logits: Path
    reordered: Path
    accuracy: float


@pytest.fixture(scope="module")
def files(tiny_runs: TinyRuns, tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of TensorFlow and Keras
        return train_and_save(tiny_runs, tmp_path_factory.mktemp("files"))


def train_and_save(tiny_runs: TinyRuns, folder: Path) -> ModelFiles:
    """Train a network with Keras alone, and save it in every format."""
    import tensorflow as tf
    import tf_keras as keras

    _, data = tiny_runs.plan()
    keras.utils.set_random_seed(3)
    layers = keras.layers
    body = [layers.Conv2D(8, 3, activation="relu"), layers.Flatten(), layers.Dense(24, activation="relu")]
    logits = keras.Sequential([layers.Input(data.shape), *body, layers.Dense(4, name="out")])
    logits.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    logits.fit(data.inputs(data.train.x), data.train.y, epochs=12, verbose=0)
    model = keras.Sequential([*logits.layers, layers.Softmax()])
    accuracy = float((model.predict(data.inputs(data.val.x), verbose=0).argmax(1) == data.val.y).mean())

    def write(name: str, content: bytes) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    def convert(source: keras.Model, **settings: object) -> bytes:
        converter = tf.lite.TFLiteConverter.from_keras_model(source)
        for setting, value in settings.items():
            setattr(converter, setting, value)
        return bytes(converter.convert())

    model.save(folder / "net.h5")
    model.save(folder / "saved", save_format="tf")
    fixed = tf.function(model).get_concrete_function(tf.TensorSpec((1, *data.shape)))
    single = tf.lite.TFLiteConverter.from_concrete_functions([fixed], model).convert()
    samples = [[data.inputs(data.train.x[i : i + 1])] for i in range(40)]
    integer = {"optimizations": [tf.lite.Optimize.DEFAULT], "representative_dataset": lambda: iter(samples)}
    reordered = keras.models.clone_model(model)
    weights = model.get_weights()
    reordered.set_weights([*weights[:-2], weights[-2][:, ORDER], weights[-1][ORDER]])
    reordered.save(folder / "reordered.h5")
    return ModelFiles(
        folder / "net.h5",
        folder / "saved",
        write("net.tflite", convert(model)),
        write("single.tflite", bytes(single)),
        write("integer.tflite", convert(model, **integer, inference_input_type=tf.int8)),
        write("logits.tflite", convert(logits)),
        folder / "reordered.h5",
        accuracy,
    )


def run_file(tiny_runs: TinyRuns, path: Path, *overrides: str) -> Record:
    return tiny_runs.run("model=from_file", f"model.path={path}", *overrides)


def test_keras_file_is_the_control(files: ModelFiles, tiny_runs: TinyRuns) -> None:
    assert files.accuracy > 0.9
    record = run_file(tiny_runs, files.keras)
    assert [stage.name for stage in record.stages] == ["file", "prune", "quantize"]
    assert record.control == "file"
    assert record.stages[0].metric("accuracy/val") == pytest.approx(files.accuracy)
    assert record.metrics["model/sparsity"] > 0.5
    assert record.metrics["size/ratio"] > 1.5
    again = run_file(tiny_runs, files.keras)
    assert all(stage.from_store for stage in again.stages)


def test_keras_file_can_be_trained_further(files: ModelFiles, tiny_runs: TinyRuns) -> None:
    order = "pipeline.order=[train,finetune]"
    record = run_file(tiny_runs, files.keras, "pipeline=control", "+stage@pipeline.stages.finetune=train", order)
    assert [stage.name for stage in record.stages] == ["file", "finetune"]
    assert record.metrics["accuracy/val"] >= files.accuracy - 0.1


@pytest.mark.parametrize("form", ["keras", "saved", "tflite", "single", "logits", "integer"])
def test_every_file_format_is_measured(form: str, files: ModelFiles, tiny_runs: TinyRuns) -> None:
    record = run_file(tiny_runs, getattr(files, form), "pipeline=control", "model.trust=true")
    assert [stage.name for stage in record.stages] == ["file"]
    tolerance = 0.05 if form == "integer" else 1e-6
    assert record.metrics["accuracy/val"] == pytest.approx(files.accuracy, abs=tolerance)
    exact = run_file(tiny_runs, files.logits, "pipeline=control").metrics["loss/val"]
    assert record.metrics["loss/val"] == pytest.approx(exact, abs=0.05 if form == "integer" else 1e-4)


def test_labels_reorder_the_outputs(files: ModelFiles, tiny_runs: TinyRuns) -> None:
    overrides = ["pipeline=control", f"model.labels={ORDER}".replace(" ", "")]
    record = run_file(tiny_runs, files.reordered, *overrides)
    assert record.metrics["accuracy/val"] == pytest.approx(files.accuracy)
    plain = run_file(tiny_runs, files.reordered, "pipeline=control")
    assert plain.metrics["accuracy/val"] < 0.5
    assert record.dataset["labels"] == [plain.dataset["labels"][label] for label in ORDER]
    datasets = [{name: value for name, value in r.dataset.items() if name != "labels"} for r in (plain, record)]
    assert datasets[0] == datasets[1]  # only the labels of the data set differ


@pytest.mark.parametrize("scheme", ["default", "int8"])
def test_tflite_is_quantised(scheme: str, files: ModelFiles, tiny_runs: TinyRuns) -> None:
    record = run_file(tiny_runs, files.tflite, "pipeline=quantize", f"pipeline.stages.quantize.scheme={scheme}")
    assert [stage.name for stage in record.stages] == ["file", "quantize"]
    assert record.metrics["accuracy/val"] == pytest.approx(files.accuracy, abs=0.05)
    assert record.metrics["size/ratio"] > 1.2


@pytest.mark.parametrize("form", ["tflite", "single"])
def test_tflite_is_trained_as_keras_layers(form: str, files: ModelFiles, tiny_runs: TinyRuns) -> None:
    file = getattr(files, form)
    record = run_file(tiny_runs, file)
    assert [stage.name for stage in record.stages] == ["file", "prune", "quantize"]
    assert record.name.startswith("from_file ")
    assert record.stages[0].metric("accuracy/val") == pytest.approx(files.accuracy)
    assert record.stages[0].facts["difference"] < 1e-5
    assert record.metrics["model/sparsity"] > 0.5
    assert all(stage.from_store for stage in run_file(tiny_runs, file).stages)


def test_pytorch_file_is_compressed(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    """Channels first, from `litert-torch`: channels are removed, then it is trained in 8 bits."""
    x = np.random.default_rng(0).random((60, 8, 8, 2), np.float32)
    np.savez(tmp_path / "noise.npz", x=x, y=np.arange(60) % 4)
    file = Path(__file__).parents[1] / "backend" / "tflite_files" / "litert_torch_residual.tflite"
    stages = ["+stage@pipeline.stages.qat=qat", "pipeline.order=[train,prune_channels,qat]"]
    data = f"dataset.path={tmp_path / 'noise.npz'}"
    record = run_file(tiny_runs, file, "pipeline=prune_channels", *stages, data)
    control, pruned, shipped = record.stages
    assert control.facts["difference"] < 1e-5
    assert control.facts["note"].startswith("rebuilt as Keras layers; outputs differ from the file's by ")
    assert pruned.metric("compute/macs") < 0.6 * control.metric("compute/macs")
    assert shipped.facts["not_simulated"] == {}
    graph = read_graph(tiny_runs.outputs / "runs" / record.id / "model.tflite")
    assert {kernel.dtype for _, kernel in graph.kernels} == {"INT8"}


def test_tflite_stays_the_file_without_training(files: ModelFiles, tiny_runs: TinyRuns) -> None:
    record = run_file(tiny_runs, files.tflite, "pipeline=control")
    shipped = tiny_runs.outputs / "runs" / record.id / "model.tflite"
    assert shipped.read_bytes() == files.tflite.read_bytes()


def test_tflite_teaches_a_student(files: ModelFiles, tiny_runs: TinyRuns) -> None:
    student = "+model@pipeline.stages.distill.student=article_mlp"
    try:
        record = run_file(tiny_runs, files.tflite, "pipeline=distill", student)
    except BadInput:
        record = run_file(tiny_runs, files.tflite, "pipeline=distill", student.removeprefix("+"))
    assert [stage.name for stage in record.stages] == ["file", "distill"]


@pytest.mark.parametrize(
    ("form", "overrides", "message"),
    [
        ("integer", ["pipeline=prune"], "quantised already"),
        ("integer", ["pipeline=quantize"], "quantised already"),
        ("saved", ["pipeline=control"], "model.trust=true"),
        ("keras", ["pipeline=distill"], "Name a student"),
        (
            "keras",
            ["pipeline=control", "dataset.path={larger}"],
            MISMATCH,
        ),
        (
            "tflite",
            ["pipeline=control", "dataset.path={larger}"],
            MISMATCH,
        ),
        ("tflite", ["pipeline=control", "model.labels=[0,1]"], "labels names 2 classes"),
        ("tflite", ["pipeline=control", "model.labels=[0,1,1,2]"], "each class once"),
    ],
)
def test_impossible_pipelines_are_refused(
    form: str, overrides: list[str], message: str, files: ModelFiles, tiny_runs: TinyRuns, tmp_path: Path
) -> None:
    larger = tmp_path / "larger.npz"
    np.savez(larger, x=np.zeros((60, 9, 9), np.uint8), y=np.arange(60) % 3)
    file = f"model.path={getattr(files, form)}"
    overrides = ["model=from_file", file, *(override.format(larger=larger) for override in overrides)]
    before = sorted(tiny_runs.outputs.rglob("*"))
    with pytest.raises(BadInput, match=r"^[^\n]+$") as error:
        tiny_runs.run(*overrides)
    assert message in str(error.value)
    assert sorted(tiny_runs.outputs.rglob("*")) == before


@pytest.mark.parametrize("name", ["net.h5", "net.tflite", "net.keras"])
@pytest.mark.parametrize("damage", ["empty", "cut", "absent"])
def test_broken_file_is_refused(name: str, damage: str, files: ModelFiles, tiny_runs: TinyRuns, tmp_path: Path) -> None:
    path = tmp_path / name
    content = (files.tflite if name.endswith(".tflite") else files.keras).read_bytes()
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    with pytest.raises(BadInput, match=r"^[^\n]+$") as error:
        run_file(tiny_runs, path, "pipeline=control")
    assert name in str(error.value)


def test_missing_file_is_refused(tiny_runs: TinyRuns) -> None:
    with pytest.raises(BadInput, match=r"model\.path=FILE"):
        tiny_runs.run("model=from_file")


def test_key_covers_the_content(files: ModelFiles, tiny_runs: TinyRuns, tmp_path: Path) -> None:
    first = run_file(tiny_runs, files.tflite, "pipeline=control").stages[0].key
    copy = tmp_path / "other.tflite"
    copy.write_bytes(files.tflite.read_bytes())
    assert run_file(tiny_runs, copy, "pipeline=control").stages[0].key == first
    assert run_file(tiny_runs, files.logits, "pipeline=control").stages[0].key != first
    assert np.isfinite(run_file(tiny_runs, copy, "pipeline=control").metrics["loss/val"])
