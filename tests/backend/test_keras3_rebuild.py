"""Files of Keras 3, made by `make_keras_3_files.py`: rebuilt with the outputs that Keras 3 gave, or refused."""

from __future__ import annotations

import json
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightexp.backend import foreign_keras
from lightexp.backend.keras_ends import read_ends
from lightexp.core.errors import BadInput
from tests.fuzz import mutate

Change = Callable[[dict[str, Any]], None]


@pytest.fixture(scope="module")
def folder(tensorflow: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the files, and with the outputs of their models."""
    folder = tmp_path_factory.mktemp("keras3")
    with zipfile.ZipFile(Path(__file__).with_name("keras_3_files.zip")) as archive:
        archive.extractall(folder)
    return folder


def load(path: Path, shape: tuple[int, ...] | None = None) -> foreign_keras.ForeignModel:
    """Check and load a file."""
    from lightexp.backend.session import reset_graph

    reset_graph(0)
    foreign_keras.check_file(path, trust=False)
    return foreign_keras.load_file(path, trust=False, shape=shape)


def refusal(path: Path) -> str:
    with pytest.raises(BadInput) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert path.name in str(caught.value)
    return str(caught.value)


def rewrite(path: Path, target: Path, change: Change, member: str = "config.json") -> Path:
    """Write a `.keras` with every node of its architecture that has a class changed."""

    def visit(node: Any) -> None:
        for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            visit(child)
        if isinstance(node, dict) and "class_name" in node:
            change(node)

    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as archive:
        for name in source.namelist():
            content = source.read(name)
            if name == member:
                tree = json.loads(content)
                visit(tree)
                content = json.dumps(tree).encode()
            archive.writestr(name, content)
    return target


def rename(old: str, **changes: Any) -> Change:
    """Return a change of the nodes of class `old`, whose settings and other entries get new values."""

    def change(node: dict[str, Any]) -> None:
        if node["class_name"] == old:
            for key, value in changes.items():
                (node if key in ("class_name", "module", "registered_name") else node["config"])[key] = value

    return change


@pytest.mark.parametrize(
    "name",
    [
        *("nested.keras", "nested.h5", "operations.keras", "layers.keras", "layers.h5", "recurrent.keras"),
        *("attention.keras", "attention.h5", "series.keras"),
    ],
)
def test_rebuilt_model_gives_outputs_of_keras_3(name: str, folder: Path) -> None:
    with np.load((folder / name).with_suffix(".npz")) as arrays:
        inputs, expected = arrays["inputs"], arrays["outputs"]
    foreign = load(folder / name, inputs.shape[1:])
    tolerance = 0.02 if name.startswith("series") else 1e-5  # that one computed in 16 bits
    assert np.abs(foreign.model(inputs, training=False) - expected).max() < tolerance * np.abs(expected).max()
    assert foreign.model.input_shape == (None, *inputs.shape[1:])
    assert foreign.left_out == (["random_flip"] if name.startswith("nested") else [])
    input_shape = read_ends(folder / name, trust=False).input_shape
    assert input_shape is not None and len(input_shape) == inputs.ndim - 1


def test_rebuilt_model_keeps_frozen_layers_and_constants(folder: Path, tmp_path: Path) -> None:
    from lightexp.backend import keras_files

    nested = load(folder / "nested.keras", (8, 8, 3)).model
    assert not nested.get_layer("depthwise_conv2d").trainable
    assert not nested.get_layer("batch_normalization").trainable
    assert nested.get_layer("conv2d").kernel_regularizer is not None
    keras_files.save_model(load(folder / "layers.keras").model, tmp_path)
    with np.load(folder / "layers.npz") as arrays:
        again = keras_files.load_model(tmp_path)(arrays["inputs"], training=False)
        assert np.abs(again - arrays["outputs"]).max() < 1e-5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rename("ELU", class_name="Lambda"), "holds 'Lambda' in layer 'elu"),
        (rename("ELU", class_name="Mine", registered_name="pack>Mine"), "holds 'pack>Mine' in layer 'elu"),
        (rename("ELU", registered_name="pack>ELU"), "holds 'pack>ELU'"),
        (rename("ELU", module="os"), "holds 'ELU' in layer 'elu"),
        (rename("Dense", activation="mine"), "holds 'mine' in layer 'dense"),
        (rename("Dense", activation={"class_name": "function", "config": "eval"}), "holds 'eval' in layer 'dense"),
        (rename("Dense", activation={"class_name": "__lambda__", "config": {"value": "x"}}), "holds '__lambda__'"),
        (rename("Conv2D", data_format="channels_first"), "holds 'channels_first' in layer 'conv2d"),
        (rename("Dense", lora_rank=4), "holds 'lora_rank=4' in layer 'dense"),
        (rename("Dense", units=10**11), "describes "),
        (rename("UpSampling2D", size=[30_000, 30_000]), "computes a tensor of "),
        (rename("Dense", units=4), "needs weights of shapes"),
        (rename("Sequential", class_name="Mine", registered_name="pack>Mine"), "Received: 'pack>Mine'"),
        (rename("Conv2D", layers=1, kernel_initializer={"class_name": "L2", "config": {}}), "kernel_initializer is L2"),
    ],
)
def test_layer_that_cannot_be_rebuilt_is_refused(change: Change, message: str, folder: Path, tmp_path: Path) -> None:
    assert message in refusal(rewrite(folder / "layers.keras", tmp_path / "net.keras", change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rename("MultiHeadAttention", use_gate=True), "'MultiHeadAttention' in layer 'attention', with use_gate=True"),
        (rename("MultiHeadAttention", num_heads="x"), "is broken (layer attention: "),
        (rename("Dense", class_name="Conv1D"), "holds 'TimeDistributed Conv1D' in layer 'time_distributed"),
    ],
)
def test_attention_that_cannot_be_rebuilt_is_refused(
    change: Change, message: str, folder: Path, tmp_path: Path
) -> None:
    assert message in refusal(rewrite(folder / "attention.keras", tmp_path / "net.keras", change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rename("GetItem", class_name="Sort", registered_name="Sort"), "holds 'Sort' in layer 'get_item"),
        (rename("Reshape", newshape=[1, -1]), "with a batch of its own"),
        (rename("Reshape", newshape=[-1, 2]), "mixes examples"),
        (rename("Mean", axis=0), "over the examples of a batch"),
        (rename("Transpose", axes=[1, 0, 2]), "holds 'Transpose' in layer 'transpose', of the batch"),
        (rename("__keras_tensor__", keras_history=["nowhere", 0, 0]), "is broken"),
        (rename("__keras_tensor__", keras_history=["flatten", 0, 0]), "call each other in a circle"),
    ],
)
def test_operation_that_cannot_be_rebuilt_is_refused(
    change: Change, message: str, folder: Path, tmp_path: Path
) -> None:
    assert message in refusal(rewrite(folder / "operations.keras", tmp_path / "net.keras", change))


@pytest.mark.parametrize(
    "change",
    [
        lambda node: node["class_name"] == "Functional" and node["config"].update(layers=["x"]),
        lambda node: node["class_name"] == "Dense" and node.pop("config"),
    ],
)
def test_ends_of_broken_architecture_are_refused(change: Change, folder: Path, tmp_path: Path) -> None:
    path = rewrite(folder / "attention.keras", tmp_path / "net.keras", change)
    with pytest.raises(BadInput, match="is broken \\(its architecture: "):
        read_ends(path, trust=False)


def test_members_of_an_archive_outside_its_names_are_ignored(folder: Path, tmp_path: Path) -> None:
    path = rewrite(folder / "layers.keras", tmp_path / "net.keras", lambda node: None)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../escaped", b"x")
        archive.writestr("/tmp/escaped", b"x")
    foreign_keras.check_file(path, trust=False)
    assert not (tmp_path.parent / "escaped").exists()


def test_later_version_of_keras_is_refused(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "net.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", '{"keras_version": "4.0.1"}')
    assert "was written by Keras 4.0.1; lightexp reads Keras 1 to 3" in refusal(path)


def test_damaged_file_is_read_or_refused_in_one_line(folder: Path, tmp_path: Path) -> None:
    """The allow-lists and the graph refuse it, or TensorFlow's absence shows that nothing was built."""
    content, rng, messages = (folder / "nested.keras").read_bytes(), random.Random(1), list[str]()
    path = tmp_path / "net.keras"
    for _ in range(40):
        altered = bytearray(content if rng.random() < 0.8 else content[: rng.randrange(len(content))])
        for _ in range(rng.choice([1, 8])):
            altered[rng.randrange(len(altered))] ^= rng.randrange(1, 256)
        path.write_bytes(altered)
        try:
            foreign_keras.check_file(path, trust=False)
        except BadInput as error:
            messages.append(str(error))
    assert messages
    assert all("\n" not in message and "net.keras" in message for message in messages)


def test_architecture_of_wrong_types_is_refused_in_one_line(folder: Path, mutants: int) -> None:
    from lightexp.backend.keras3_config import check_config
    from lightexp.backend.keras3_graph import read_graph

    messages = []
    for name in ("nested", "operations"):
        with zipfile.ZipFile(folder / f"{name}.keras") as archive:
            tree = json.loads(archive.read("config.json"))
        for _, mutant in mutate(tree, mutants):
            try:
                read_graph(Path("net.keras"), check_config(Path("net.keras"), mutant))
            except BadInput as error:
                messages.append(str(error))
    assert messages
    assert all("\n" not in message and len(message) < 600 for message in messages)
