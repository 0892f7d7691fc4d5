"""Tests of the task that is taken from a model's file."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

from lightexp.backend.keras_ends import read_ends
from lightexp.core.errors import BadInput
from lightexp.models.from_file import FromFile
from lightexp.runner.compose import compose_settings
from lightexp.runner.progress import SilentReporter
from lightexp.runner.run import Runner
from lightexp.tasks.binary import Binary
from lightexp.tasks.classification import Classification
from lightexp.tasks.regression import Regression


@pytest.fixture(scope="module")
def files(tensorflow: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return files of models of 30 features by what they end in."""
    import tensorflow as tf

    from lightexp.backend.session import import_keras, reset_graph

    reset_graph(0)
    keras, folder = import_keras(), tmp_path_factory.mktemp("ends")
    inputs = keras.Input((30,))
    hidden = keras.layers.Dense(4, "relu")(inputs)
    models = {
        "sigmoid.h5": keras.Sequential([keras.Input((30,)), keras.layers.Dense(1, "sigmoid")]),
        "functional.keras": keras.Model(inputs, keras.layers.Dense(1, "sigmoid")(hidden)),
        "linear.h5": keras.Model(inputs, keras.layers.Dense(1)(hidden)),
        "same.h5": keras.Model(inputs, keras.layers.Dense(30)(hidden)),
        "two.h5": keras.Model(inputs, keras.layers.Dense(2, "sigmoid")(hidden)),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras warns about its older format
        for name, model in models.items():
            model.save(folder / name)
    content = tf.lite.TFLiteConverter.from_keras_model(models["functional.keras"]).convert()
    (folder / "sigmoid.tflite").write_bytes(content)
    return {path.name: path for path in folder.iterdir()}


def plan(path: Path, *overrides: str) -> Any:
    common = ["dataset=sklearn", "model=from_file", f"model.path={path}", "pipeline=control", "tracking=none"]
    settings = compose_settings([*common, f"paths.outputs={path.parent}", *overrides])
    return settings, Runner(SilentReporter()).plan(settings)[1]


@pytest.mark.parametrize("name", ["sigmoid.h5", "functional.keras", "sigmoid.tflite"])
def test_one_sigmoid_and_two_classes_are_binary(name: str, files: dict[str, Path]) -> None:
    settings, data = plan(files[name])
    assert settings.task == data.task == Binary()
    assert data.notes[0] == "The model's file ends in one sigmoid: task=binary is taken."
    assert settings.plain["task"] == compose_settings(["task=binary"]).plain["task"]


def test_task_that_is_set_is_kept(files: dict[str, Path]) -> None:
    settings = compose_settings(["task=regression", "model=from_file", f"model.path={files['sigmoid.h5']}"])
    assert (settings.task, settings.is_task_inferred) == (Regression(), False)
    settings, data = plan(files["sigmoid.h5"], "task=binary", "task.primary=auc")
    assert settings.task == Binary(primary="auc") and data.notes == ()


def test_other_ends_infer_nothing(files: dict[str, Path]) -> None:
    assert not any(read_ends(files[name], trust=False).is_one_sigmoid for name in ("linear.h5", "two.h5"))
    settings = compose_settings(["model=from_file", f"model.path={files['linear.h5']}"])
    assert settings.task == Classification()


def test_one_sigmoid_with_more_classes_is_refused(files: dict[str, Path]) -> None:
    message = r"ends in one sigmoid, which tells two classes apart\. Received: 3 classes in iris"
    with pytest.raises(BadInput, match=message):
        plan(files["sigmoid.h5"], "dataset.name=iris")


@pytest.mark.parametrize(
    ("name", "outputs", "advice"),
    [
        (
            "linear.h5",
            2,
            r"\(1,\); the data need \(30,\) to \(2,\)\..*say task=binary or task=regression, which fit one",
        ),
        ("two.h5", 1, r"\(2,\); the data need \(30,\) to \(1,\)\..*say task=classification, which fits an output for"),
        ("same.h5", 2, r"\(30,\); the data need \(30,\) to \(2,\)\..*say task=reconstruction, which compares"),
    ],
)
def test_outputs_of_another_task_name_it(name: str, outputs: int, advice: str, files: dict[str, Path]) -> None:
    with pytest.raises(BadInput, match=rf"maps \(30,\) to {advice}"):
        FromFile(str(files[name])).load((30,), outputs)
