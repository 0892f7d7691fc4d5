"""Tests of models from files: of real networks, of older Keras versions, and damaged ones."""

from __future__ import annotations

import json
import random
import shutil
import warnings
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
from lightexp.models.from_file import FromFile, check_tensor_sizes, try_on_example
from tests.fuzz import mutate
from tests.special_files import deadline

SHAPE, CLASSES = (8, 8, 2), 4
X = np.random.default_rng(0).random((6, *SHAPE), np.float32)
SPLIT = Split(X, np.arange(6, dtype=np.int32) % CLASSES)
DATA = Data("noise", SPLIT, SPLIT, SPLIT, CLASSES, 1.0, 0.0)


def make_network(shape: tuple[int, ...] = SHAPE, classes: int = CLASSES, extra: Any = None) -> Any:
    """Return a network with layers of MobileNets and ResNets, and a nested backbone."""
    import tensorflow as tf
    import tf_keras as keras

    keras.utils.set_random_seed(3)
    kl = keras.layers
    backbone_inputs = kl.Input((*shape[:2], 8))
    x = kl.BatchNormalization()(kl.DepthwiseConv2D(3, padding="same", use_bias=False)(backbone_inputs))
    x = kl.BatchNormalization()(kl.Conv2D(8, 1)(kl.ReLU(6.0)(x)))
    backbone = keras.Model(backbone_inputs, tf.nn.relu6(kl.Add()([x, backbone_inputs])), name="backbone")
    inputs = kl.Input(shape)
    x = backbone(kl.Conv2D(8, 3, padding="same", activation=tf.nn.relu6)(inputs))
    x = kl.GlobalAveragePooling2D()(extra(x) if extra else x)
    model = keras.Model(inputs, kl.Dense(classes, activation="softmax")(x))
    model.set_weights([w + 0.2 * np.random.default_rng(2).random(w.shape) for w in model.get_weights()])
    return model


@pytest.fixture(scope="module")
def folder(tensorflow: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a network in every format, and with some that are refused."""
    import tensorflow as tf
    import tf_keras as keras

    folder = tmp_path_factory.mktemp("foreign")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorFlow and Keras warn about legacy formats
        model = make_network()
        np.save(folder / "logits.npy", np.log(model.predict(X, verbose=0)))
        for name in ("net.h5", "net.keras", "net"):
            model.save(folder / name)
        (folder / "net.tflite").write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
        make_network(extra=keras.layers.Lambda(lambda x: 2 * x)).save(folder / "lambda.h5")
        make_network(extra=keras.layers.Lambda(lambda x: 2 * x)).save(folder / "lambda.keras")
        make_network(extra=keras.layers.Lambda(lambda x: 2 * x)).save(folder / "lambda")
        for name, value in (("nan", np.nan), ("huge", 1e30)):
            model.set_weights([np.full_like(w, value) for w in model.get_weights()])
            model.save(folder / f"{name}.h5")
            (folder / f"{name}.tflite").write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    return folder


def has_same_logits(path: Path, folder: Path) -> bool:
    """Return whether a loaded file gives the network's logits, up to the constant that softmax removes."""
    logits = FromFile(str(path), trust=True).load(SHAPE, CLASSES)(X).numpy()
    difference = logits - np.load(folder / "logits.npy")
    return bool(np.ptp(difference, axis=1).max() < 1e-4)


def refusal(path: Path, **settings: Any) -> str:
    with pytest.raises(BadInput) as caught:
        FromFile(str(path), **settings).load(SHAPE, CLASSES)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["net.h5", "net.keras", "net"])
def test_load_flattens_nested_layers(name: str, folder: Path) -> None:
    assert has_same_logits(folder / name, folder)
    kinds = [type(layer).__name__ for layer in FromFile(str(folder / name), True).load(SHAPE, CLASSES).layers]
    assert {"DepthwiseConv2D", "BatchNormalization", "ReLU", "Add", "GlobalAveragePooling2D"} <= set(kinds)
    assert "Functional" not in kinds


@pytest.mark.parametrize(("name", "rank"), [("net.h5", 3), ("net.keras", 3), ("net.tflite", 3), ("net", None)])
def test_input_rank_is_read_without_building(name: str, rank: int | None, folder: Path) -> None:
    assert FromFile(str(folder / name), trust=True).input_rank == rank
    assert FromFile(str(folder / "missing")).input_rank is None


def rewrite(path: Path, change: Callable[[dict[str, Any]], None], version: str = "2.4.0") -> Path:
    """Change the architecture in a `.h5` file, in the format of an older Keras version."""
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


def test_load_older_keras_version(folder: Path, tmp_path: Path) -> None:
    def downgrade(node: dict[str, Any]) -> None:
        if node["class_name"] == "DepthwiseConv2D":
            node["config"]["groups"] = 1
        if node["class_name"] == "BatchNormalization":
            node["class_name"] = "BatchNormalizationV1"
        if node["class_name"] == "Functional":
            node["class_name"] = "Model"

    assert has_same_logits(rewrite(shutil.copy(folder / "net.h5", tmp_path / "old.h5"), downgrade), folder)


def test_load_sequential_as_list_of_layers(tensorflow: None, tmp_path: Path) -> None:
    import tf_keras as keras

    kl = keras.layers
    model = keras.Sequential([kl.Conv2D(4, 3, input_shape=SHAPE), kl.ReLU(6.0), kl.Flatten(), kl.Dense(CLASSES)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save(tmp_path / "list.h5")

    def downgrade(node: dict[str, Any]) -> None:
        if node["class_name"] == "Sequential":
            _, first, *_ = node["config"]["layers"]
            first["config"]["batch_input_shape"] = [None, *SHAPE]
            node["config"] = node["config"]["layers"][1:]

    loaded = FromFile(str(rewrite(tmp_path / "list.h5", downgrade, "2.2.0"))).load(SHAPE, CLASSES)
    assert np.array_equal(loaded(X).numpy(), model(X).numpy())


def test_open_input_is_sized_by_the_data(tensorflow: None, tmp_path: Path) -> None:
    import tf_keras as keras

    kl = keras.layers
    body = [kl.RandomFlip(), kl.Conv2D(4, 3), kl.GlobalAveragePooling2D(), kl.Dense(CLASSES)]
    model = keras.Sequential([kl.Input((None, None, 2)), *body])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save(tmp_path / "any.h5")
    foreign = FromFile(str(tmp_path / "any.h5")).load_foreign(SHAPE, CLASSES)
    assert foreign.model.input_shape == (None, *SHAPE)
    assert foreign.left_out == ["random_flip"]
    assert np.allclose(foreign.model(X), model(X, training=False), atol=1e-6)


def test_unknown_layer_setting_is_refused(folder: Path, tmp_path: Path) -> None:
    def add_setting(node: dict[str, Any]) -> None:
        if node["class_name"] == "Dense":
            node["config"]["novelty"] = 1

    assert "'novelty'" in refusal(rewrite(shutil.copy(folder / "net.h5", tmp_path / "odd.h5"), add_setting))


def test_recurrent_layers_load(tensorflow: None, tmp_path: Path) -> None:
    from lightexp.backend.session import import_keras

    kl = import_keras().layers
    layers = [kl.LSTM(5, return_sequences=True), kl.Bidirectional(kl.GRU(4, return_sequences=True)), kl.SimpleRNN(3)]
    model = import_keras().Sequential([kl.Input((7, 2)), *layers, kl.Dense(CLASSES)])
    model.save(tmp_path / "rnn.keras")
    x = np.random.default_rng(0).random((6, 7, 2), np.float32)
    loaded = FromFile(str(tmp_path / "rnn.keras")).load((7, 2), CLASSES)
    assert np.array_equal(loaded(x).numpy(), model(x).numpy())


def test_broken_recurrent_layer_is_refused(folder: Path, tmp_path: Path) -> None:
    def make_recurrent(node: dict[str, Any]) -> None:
        if node["class_name"] == "Dense":
            node["class_name"] = "LSTM"

    message = refusal(rewrite(shutil.copy(folder / "net.h5", tmp_path / "rnn.h5"), make_recurrent))
    assert "cannot be read as a Keras model" in message


@pytest.mark.parametrize("name", ["lambda.h5", "lambda.keras", "lambda"])
def test_lambda_layer_is_refused(name: str, folder: Path) -> None:
    message = refusal(folder / name, trust=True)
    assert "holds 'Lambda'" in message
    assert "float .tflite" in message


@pytest.mark.parametrize("name", ["nan", "huge"])
def test_file_of_broken_weights_is_refused(name: str, folder: Path) -> None:
    assert "holds weights that are NaN, infinite or far too large" in refusal(folder / f"{name}.h5")
    try_on_example(folder / "net.tflite", DATA)
    with pytest.raises(BadInput, match=rf"{name}\.tflite holds NaN, infinite or far too large weights in '"):
        try_on_example(folder / f"{name}.tflite", DATA)


def damage(content: bytes, rng: random.Random) -> bytes:
    """Return the content with one byte or several altered, or truncated."""
    if rng.random() < 0.2:
        return content[: rng.randrange(len(content))]
    altered = bytearray(content)
    for _ in range(rng.choice([1, 1, 8])):
        altered[rng.randrange(len(content))] ^= rng.randrange(1, 256)
    return bytes(altered)


@pytest.mark.parametrize(("name", "cases"), [("net.h5", 25), ("net.keras", 40), ("net.tflite", 60)])
def test_damaged_file_is_read_or_refused_in_one_line(name: str, cases: int, folder: Path, tmp_path: Path) -> None:
    """No file may end this process or raise another error than BadInput."""
    content, rng, messages = (folder / name).read_bytes(), random.Random(name), list[str]()
    for _ in range(cases):
        (tmp_path / name).write_bytes(damage(content, rng))
        try:
            model = FromFile(str(tmp_path / name))
            make_file_stage(model)
            model.check(SHAPE, CLASSES)
            if model.is_tflite:
                try_on_example(tmp_path / name, DATA)
            else:
                model.load(SHAPE, CLASSES)
        except BadInput as error:
            messages.append(str(error))
    assert messages
    assert all("\n" not in message and name in message for message in messages)


def test_architecture_of_wrong_types_is_refused_in_one_line(folder: Path, tmp_path: Path, mutants: int) -> None:
    path = shutil.copy(folder / "net.h5", tmp_path / "net.h5")
    with h5py.File(path) as file:
        tree = json.loads(file.attrs["model_config"])
    messages = []
    for _, mutant in mutate(tree, mutants // 10):
        if "long " * 20_000 in (text := json.dumps(mutant)):  # an attribute of HDF5 holds 64 KiB
            continue
        with h5py.File(path, "r+") as file:
            file.attrs["model_config"] = text
        try:
            FromFile(str(path)).load(SHAPE, CLASSES)
        except BadInput as error:
            messages.append(str(error))
    assert messages
    assert all("\n" not in message and len(message) < 600 for message in messages)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"class_name": "Dense"}, "its architecture holds function: {'class_name': 'Dense'}"),
        (["nn.relu"], "its architecture holds function: ['nn.relu']"),
    ],
)
def test_function_of_wrong_type_is_refused(value: Any, message: str, folder: Path, tmp_path: Path) -> None:
    def change_function(node: dict[str, Any]) -> None:
        if node["class_name"] == "TFOpLambda":
            node["config"]["function"] = value

    path = rewrite(shutil.copy(folder / "net.h5", tmp_path / "net.h5"), change_function)
    assert message in refusal(path)


def test_endless_architecture_is_refused(folder: Path, tmp_path: Path) -> None:
    path = shutil.copy(folder / "net.h5", tmp_path / "net.h5")
    with h5py.File(path, "r+") as file:
        file.attrs["model_config"] = '{"class_name": "Sequential", "config": ' + "[" * 400 + "]" * 400 + "}"
    assert "is nested without end" in refusal(path)


def test_select_view_reorders_class_names(folder: Path) -> None:
    view = FromFile(str(folder / "net.h5"), labels=[2, 0, 3, 1]).select_view(DATA)
    assert view.names == ("2", "0", "3", "1")
    assert [view.names[label] for label in view.val.y] == [str(label) for label in DATA.val.y]
    named = FromFile(str(folder / "net.h5"), labels=[2, 0, 3, 1]).select_view(replace(DATA, names=("a", "b", "c", "d")))
    assert named.names == ("c", "a", "d", "b")


def test_architecture_larger_than_its_weights_is_refused(folder: Path, tmp_path: Path) -> None:
    def enlarge(layer: dict[str, Any]) -> None:
        if layer["class_name"] == "Dense":
            layer["config"]["units"] = 10**11

    path = rewrite(Path(shutil.copy(folder / "net.h5", tmp_path / "large.h5")), enlarge)
    with deadline():
        assert "describes 900,000,00" in refusal(path)


def test_refused_file_leaves_models_in_memory_usable(folder: Path, tmp_path: Path) -> None:
    model = make_network()

    def enlarge(layer: dict[str, Any]) -> None:
        if layer["class_name"] == "Dense":
            layer["config"]["units"] = 10**11

    refusal(rewrite(Path(shutil.copy(folder / "net.h5", tmp_path / "large.h5")), enlarge))
    model.save(tmp_path / "saved")
    assert model(X).shape == (len(X), CLASSES)


def test_tensor_much_larger_than_the_file_is_refused(folder: Path, tmp_path: Path) -> None:
    def enlarge(layer: dict[str, Any]) -> None:
        if layer["class_name"] == "InputLayer":
            layer["config"]["batch_input_shape"][1:3] = [10_000, 10_000]

    path = rewrite(Path(shutil.copy(folder / "net.h5", tmp_path / "large.h5")), enlarge)
    with deadline():
        assert "computes a tensor of 3.2 GB or more" in refusal(path)
    graph = FromFile(str(folder / "net.tflite")).read_graph()
    tensors = (replace(graph.tensors[0], shape=(1, 10_000, 10_000, 2)), *graph.tensors[1:])
    with pytest.raises(BadInput, match=r"computes a tensor of 800\.0 MB or more; the limit is .*set model\.max_gb"):
        check_tensor_sizes(folder / "net.tflite", replace(graph, tensors=tensors))
    check_tensor_sizes(folder / "net.tflite", replace(graph, tensors=tensors), max_gb=0.8)
