"""Real runs on models that somebody else has trained."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from lightexp.core.errors import BadInput
from lightexp.core.record import Record
from tests.tiny_runs import TinyRuns

MISMATCH = "maps (8, 8, 1) to (4,); the data need (9, 9, 1) to (3,)"
ORDER = [2, 0, 3, 1]  # the class that each output of the `reordered` file stands for


@dataclass
class Files:
    """One trained network in the forms that people hand on; each but `logits` ends in a softmax.

    Attributes:
        keras: `.h5`.
        saved: A SavedModel.
        tflite: Float, of any batch.
        single: Float, of batch 1.
        integer: int8 throughout.
        logits: `.tflite` without the softmax.
        reordered: `.h5` whose outputs are in `ORDER`.
        accuracy: The share of the validation split that Keras gets right.
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
def files(tiny_runs: TinyRuns, tmp_path_factory: pytest.TempPathFactory) -> Files:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorFlow's and Keras's, at making them
        return _made(tiny_runs, tmp_path_factory.mktemp("files"))


def _made(tiny_runs: TinyRuns, folder: Path) -> Files:
    """Trained by plain Keras, not by us."""
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

    def written(name: str, content: bytes) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    def converted(source: keras.Model, **settings: object) -> bytes:
        converter = tf.lite.TFLiteConverter.from_keras_model(source)
        for setting, value in settings.items():
            setattr(converter, setting, value)
        return bytes(converter.convert())

    model.save(folder / "net.h5")
    model.save(folder / "saved", save_format="tf")
    fixed = tf.function(model).get_concrete_function(tf.TensorSpec((1, *data.shape)))
    single = tf.lite.TFLiteConverter.from_concrete_functions([fixed], model).convert()
    samples = [[data.inputs(data.train.x[i : i + 1])] for i in range(40)]
    whole = {"optimizations": [tf.lite.Optimize.DEFAULT], "representative_dataset": lambda: iter(samples)}
    reordered = keras.models.clone_model(model)
    weights = model.get_weights()
    reordered.set_weights([*weights[:-2], weights[-2][:, ORDER], weights[-1][ORDER]])
    reordered.save(folder / "reordered.h5")
    return Files(
        folder / "net.h5",
        folder / "saved",
        written("net.tflite", converted(model)),
        written("single.tflite", bytes(single)),
        written("integer.tflite", converted(model, **whole, inference_input_type=tf.int8)),
        written("logits.tflite", converted(logits)),
        folder / "reordered.h5",
        accuracy,
    )


def run(tiny_runs: TinyRuns, path: Path, *words: str) -> Record:
    return tiny_runs.run("model=from_file", f"model.path={path}", *words)


def test_keras_file_is_the_control(files: Files, tiny_runs: TinyRuns) -> None:
    assert files.accuracy > 0.9
    record = run(tiny_runs, files.keras)
    assert [stage.name for stage in record.stages] == ["file", "prune", "quantize"]
    assert record.control == "file"
    assert record.stages[0].metric("accuracy/val") == pytest.approx(files.accuracy)
    assert record.metrics["model/sparsity"] > 0.5
    assert record.metrics["size/ratio"] > 1.5
    again = run(tiny_runs, files.keras)
    assert all(stage.from_store for stage in again.stages)


def test_keras_file_can_be_trained_further(files: Files, tiny_runs: TinyRuns) -> None:
    order = "pipeline.order=[train,finetune]"
    record = run(tiny_runs, files.keras, "pipeline=control", "+stage@pipeline.stages.finetune=train", order)
    assert [stage.name for stage in record.stages] == ["file", "finetune"]
    assert record.metrics["accuracy/val"] >= files.accuracy - 0.1


@pytest.mark.parametrize("form", ["keras", "saved", "tflite", "single", "logits", "integer"])
def test_every_file_format_is_measured(form: str, files: Files, tiny_runs: TinyRuns) -> None:
    record = run(tiny_runs, getattr(files, form), "pipeline=control", "model.trust=true")
    assert [stage.name for stage in record.stages] == ["file"]
    slack = 0.05 if form == "integer" else 1e-6
    assert record.metrics["accuracy/val"] == pytest.approx(files.accuracy, abs=slack)
    exact = run(tiny_runs, files.logits, "pipeline=control").metrics["loss/val"]
    assert record.metrics["loss/val"] == pytest.approx(exact, abs=0.05 if form == "integer" else 1e-4)


def test_labels_reorder_the_outputs(files: Files, tiny_runs: TinyRuns) -> None:
    words = ["pipeline=control", f"model.labels={ORDER}".replace(" ", "")]
    record = run(tiny_runs, files.reordered, *words)
    assert record.metrics["accuracy/val"] == pytest.approx(files.accuracy)
    plain = run(tiny_runs, files.reordered, "pipeline=control")
    assert plain.metrics["accuracy/val"] < 0.5
    assert record.dataset["labels"] == [plain.dataset["labels"][label] for label in ORDER]
    same = [{k: v for k, v in r.dataset.items() if k != "labels"} for r in (plain, record)]
    assert same[0] == same[1]  # the data are the same; only how they are looked at is not


@pytest.mark.parametrize("scheme", ["default", "int8"])
def test_tflite_is_quantised(scheme: str, files: Files, tiny_runs: TinyRuns) -> None:
    record = run(tiny_runs, files.tflite, "pipeline=quantize", f"pipeline.stages.quantize.scheme={scheme}")
    assert [stage.name for stage in record.stages] == ["file", "quantize"]
    assert record.metrics["accuracy/val"] == pytest.approx(files.accuracy, abs=0.05)
    assert record.metrics["size/ratio"] > 1.2


def test_tflite_teaches_a_student(files: Files, tiny_runs: TinyRuns) -> None:
    student = "+model@pipeline.stages.distill.student=article_mlp"
    try:
        record = run(tiny_runs, files.tflite, "pipeline=distill", student)
    except BadInput:
        record = run(tiny_runs, files.tflite, "pipeline=distill", student.removeprefix("+"))
    assert [stage.name for stage in record.stages] == ["file", "distill"]


@pytest.mark.parametrize(
    ("form", "words", "told"),
    [
        ("tflite", ["pipeline=prune"], "needs Keras layers"),
        ("integer", ["pipeline=quantize"], "quantised already"),
        ("saved", ["pipeline=control"], "model.trust=true"),
        ("keras", ["pipeline=distill"], "Name a student"),
        (
            "keras",
            ["pipeline=control", "dataset.path={more}"],
            MISMATCH,
        ),
        (
            "tflite",
            ["pipeline=control", "dataset.path={more}"],
            MISMATCH,
        ),
        ("tflite", ["pipeline=control", "model.labels=[0,1]"], "labels names 2 classes"),
        ("tflite", ["pipeline=control", "model.labels=[0,1,1,2]"], "each class once"),
    ],
)
def test_impossible_pipelines_are_refused(
    form: str, words: list[str], told: str, files: Files, tiny_runs: TinyRuns, tmp_path: Path
) -> None:
    more = tmp_path / "more.npz"
    np.savez(more, x=np.zeros((60, 9, 9), np.uint8), y=np.arange(60) % 3)
    words = ["model=from_file", f"model.path={getattr(files, form)}", *(word.format(more=more) for word in words)]
    before = sorted(tiny_runs.outputs.rglob("*"))
    with pytest.raises(BadInput, match=r"^[^\n]+$") as error:
        tiny_runs.run(*words)
    assert told in str(error.value)
    assert sorted(tiny_runs.outputs.rglob("*")) == before


@pytest.mark.parametrize("name", ["net.h5", "net.tflite", "net.keras"])
@pytest.mark.parametrize("damage", ["empty", "cut", "absent"])
def test_broken_file_is_refused(name: str, damage: str, files: Files, tiny_runs: TinyRuns, tmp_path: Path) -> None:
    path = tmp_path / name
    whole = (files.tflite if name.endswith(".tflite") else files.keras).read_bytes()
    if damage != "absent":
        path.write_bytes(b"" if damage == "empty" else whole[: len(whole) // 2])
    with pytest.raises(BadInput, match=r"^[^\n]+$") as error:
        run(tiny_runs, path, "pipeline=control")
    assert name in str(error.value)


def test_missing_file_is_refused(tiny_runs: TinyRuns) -> None:
    with pytest.raises(BadInput, match=r"model\.path=FILE"):
        tiny_runs.run("model=from_file")


def test_key_covers_the_content(files: Files, tiny_runs: TinyRuns, tmp_path: Path) -> None:
    first = run(tiny_runs, files.tflite, "pipeline=control").stages[0].key
    copy = tmp_path / "other.tflite"
    copy.write_bytes(files.tflite.read_bytes())
    assert run(tiny_runs, copy, "pipeline=control").stages[0].key == first
    assert run(tiny_runs, files.logits, "pipeline=control").stages[0].key != first
    assert np.isfinite(run(tiny_runs, copy, "pipeline=control").metrics["loss/val"])
