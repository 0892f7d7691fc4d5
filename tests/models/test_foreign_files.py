"""Keras files as others wrote them: real ones, older ones, and damaged ones."""

from __future__ import annotations

import json
import random
import shutil
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from lightexp.core.data import Data, Split
from lightexp.core.errors import BadInput
from lightexp.models.file_stages import make_file_stage
from lightexp.models.from_file import FromFile, try_on_example

SHAPE, CLASSES = (8, 8, 2), 4
X = np.random.default_rng(0).random((6, *SHAPE), np.float32)
SPLIT = Split(X, np.arange(6, dtype=np.int32) % CLASSES)
DATA = Data("noise", SPLIT, SPLIT, SPLIT, CLASSES, 1.0, 0.0)


def net(shape: tuple[int, ...] = SHAPE, classes: int = CLASSES, extra: Any = None) -> Any:
    """What MobileNets and ResNets are made of, around a backbone of its own, with trained statistics."""
    import tensorflow as tf
    import tf_keras as keras

    keras.utils.set_random_seed(3)
    kl = keras.layers
    inside = kl.Input((*shape[:2], 8))
    x = kl.BatchNormalization()(kl.DepthwiseConv2D(3, padding="same", use_bias=False)(inside))
    x = kl.BatchNormalization()(kl.Conv2D(8, 1)(kl.ReLU(6.0)(x)))
    backbone = keras.Model(inside, tf.nn.relu6(kl.Add()([x, inside])), name="backbone")
    inputs = kl.Input(shape)
    x = backbone(kl.Conv2D(8, 3, padding="same", activation=tf.nn.relu6)(inputs))
    x = kl.GlobalAveragePooling2D()(extra(x) if extra else x)
    model = keras.Model(inputs, kl.Dense(classes, activation="softmax")(x))
    model.set_weights([w + 0.2 * np.random.default_rng(2).random(w.shape) for w in model.get_weights()])
    return model


@pytest.fixture(scope="module")
def folder(tensorflow: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One network in every form, and some that are refused."""
    import tensorflow as tf
    import tf_keras as keras

    folder = tmp_path_factory.mktemp("foreign")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorFlow's and Keras's, at writing them
        model = net()
        np.save(folder / "logits.npy", np.log(model.predict(X, verbose=0)))
        for name in ("net.h5", "net.keras", "net"):
            model.save(folder / name)
        (folder / "net.tflite").write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
        net(extra=keras.layers.Lambda(lambda x: 2 * x)).save(folder / "lambda.h5")
        net(extra=keras.layers.Lambda(lambda x: 2 * x)).save(folder / "lambda.keras")
        net(extra=keras.layers.Lambda(lambda x: 2 * x)).save(folder / "lambda")
        model.set_weights([np.full_like(w, np.nan) for w in model.get_weights()])
        model.save(folder / "nan.h5")
        (folder / "nan.tflite").write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    return folder


def agrees(path: Path, folder: Path) -> bool:
    """Whether what is loaded gives the network's logits, up to the constant that softmax takes away."""
    found = FromFile(str(path), trust=True).load(SHAPE, CLASSES)(X).numpy()
    difference = found - np.load(folder / "logits.npy")
    return bool(np.ptp(difference, axis=1).max() < 1e-4)


def refusal(path: Path, **settings: Any) -> str:
    with pytest.raises(BadInput) as caught:
        FromFile(str(path), **settings).load(SHAPE, CLASSES)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["net.h5", "net.keras", "net"])
def test_real_layers_are_loaded_as_plain_ones(name: str, folder: Path) -> None:
    assert agrees(folder / name, folder)
    kinds = [type(layer).__name__ for layer in FromFile(str(folder / name), True).load(SHAPE, CLASSES).layers]
    assert {"DepthwiseConv2D", "BatchNormalization", "ReLU", "Add", "GlobalAveragePooling2D"} <= set(kinds)
    assert "Functional" not in kinds


def rewritten(path: Path, change: Callable[[dict[str, Any]], None], version: str = "2.4.0") -> Path:
    """The `.h5` with another architecture, as an older Keras would have put it."""
    with h5py.File(path, "a") as file:
        architecture = json.loads(file.attrs["model_config"])

        def visit(node: Any) -> None:
            for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
                visit(child)
            if isinstance(node, dict) and "class_name" in node:
                for name in ("module", "registered_name", "build_config"):
                    node.pop(name, None)
                change(node)

        visit(architecture)
        file.attrs["model_config"] = json.dumps(architecture).encode()
        file.attrs["keras_version"] = version
    return path


def test_what_older_versions_wrote_is_read(folder: Path, tmp_path: Path) -> None:
    def older(node: dict[str, Any]) -> None:
        if node["class_name"] == "DepthwiseConv2D":
            node["config"]["groups"] = 1
        if node["class_name"] == "BatchNormalization":
            node["class_name"] = "BatchNormalizationV1"
        if node["class_name"] == "Functional":
            node["class_name"] = "Model"

    assert agrees(rewritten(shutil.copy(folder / "net.h5", tmp_path / "old.h5"), older), folder)


def test_a_sequential_model_that_is_a_list_of_layers_is_read(tensorflow: None, tmp_path: Path) -> None:
    import tf_keras as keras

    kl = keras.layers
    model = keras.Sequential([kl.Conv2D(4, 3, input_shape=SHAPE), kl.ReLU(6.0), kl.Flatten(), kl.Dense(CLASSES)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save(tmp_path / "list.h5")

    def older(node: dict[str, Any]) -> None:
        if node["class_name"] == "Sequential":
            _, first, *_ = node["config"]["layers"]
            first["config"]["batch_input_shape"] = [None, *SHAPE]
            node["config"] = node["config"]["layers"][1:]

    loaded = FromFile(str(rewritten(tmp_path / "list.h5", older, "2.2.0"))).load(SHAPE, CLASSES)
    assert np.array_equal(loaded(X).numpy(), model(X).numpy())


def test_a_layer_with_settings_unknown_is_told_by_what_is_wrong_with_it(folder: Path, tmp_path: Path) -> None:
    def strange(node: dict[str, Any]) -> None:
        if node["class_name"] == "Dense":
            node["config"]["novelty"] = 1

    assert "'novelty'" in refusal(rewritten(shutil.copy(folder / "net.h5", tmp_path / "odd.h5"), strange))


def test_recurrent_layers_are_refused_before_the_converter_fails(folder: Path, tmp_path: Path) -> None:
    def recurrent(node: dict[str, Any]) -> None:
        if node["class_name"] == "Dense":
            node["class_name"] = "LSTM"

    assert "holds 'LSTM'" in refusal(rewritten(shutil.copy(folder / "net.h5", tmp_path / "rnn.h5"), recurrent))


@pytest.mark.parametrize("name", ["lambda.h5", "lambda.keras", "lambda"])
def test_a_lambda_is_refused(name: str, folder: Path) -> None:
    words = refusal(folder / name, trust=True)
    assert "holds 'Lambda'" in words
    assert "float .tflite" in words


def test_keras_3_is_told_how_to_convert(folder: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(folder / "net.keras") as old, zipfile.ZipFile(tmp_path / "three.keras", "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "metadata.json":
                content = json.dumps({**json.loads(content), "keras_version": "3.9.0"}).encode()
            new.writestr(name, content)
    words = refusal(tmp_path / "three.keras")
    assert "written by Keras 3.9.0" in words
    assert 'model.export("model.tflite"' in words
    h5 = rewritten(shutil.copy(folder / "net.h5", tmp_path / "three.h5"), lambda node: None, "3.9.0")
    assert "written by Keras 3.9.0" in refusal(h5)


def test_nan_is_seen_in_weights_and_in_what_a_tflite_gives(folder: Path) -> None:
    assert "NaN or infinite" in refusal(folder / "nan.h5")
    try_on_example(folder / "net.tflite", DATA)
    with pytest.raises(BadInput, match=r"nan\.tflite gives NaN or infinity for an example of noise"):
        try_on_example(folder / "nan.tflite", DATA)


def damaged(content: bytes, draw: random.Random) -> bytes:
    """One byte altered, several, or the file cut."""
    if draw.random() < 0.2:
        return content[: draw.randrange(len(content))]
    altered = bytearray(content)
    for _ in range(draw.choice([1, 1, 8])):
        altered[draw.randrange(len(content))] ^= draw.randrange(1, 256)
    return bytes(altered)


@pytest.mark.parametrize(("name", "cases"), [("net.h5", 25), ("net.keras", 40), ("net.tflite", 60)])
def test_damaged_files_are_read_or_told_in_one_line(name: str, cases: int, folder: Path, tmp_path: Path) -> None:
    """Whatever it is, this process lives on and sees no error but BadInput."""
    content, draw, refused = (folder / name).read_bytes(), random.Random(name), list[str]()
    for _ in range(cases):
        (tmp_path / name).write_bytes(damaged(content, draw))
        try:
            model = FromFile(str(tmp_path / name))
            make_file_stage(model)
            model.check(SHAPE, CLASSES)
            if model.is_tflite:
                try_on_example(tmp_path / name, DATA)
            else:
                model.load(SHAPE, CLASSES)
        except BadInput as error:
            refused.append(str(error))
    assert refused
    assert all("\n" not in words and name in words for words in refused)


def test_classes_keep_their_names_in_another_order(folder: Path) -> None:
    seen = FromFile(str(folder / "net.h5"), labels=[2, 0, 3, 1]).select_view(DATA)
    assert seen.names == ("2", "0", "3", "1")
    assert [seen.names[label] for label in seen.val.y] == [str(label) for label in DATA.val.y]
    named = FromFile(str(folder / "net.h5"), labels=[2, 0, 3, 1]).select_view(replace(DATA, names=("a", "b", "c", "d")))
    assert named.names == ("c", "a", "d", "b")
