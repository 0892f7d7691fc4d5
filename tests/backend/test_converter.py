"""Tests of converting Keras models to flatbuffers."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightexp.core.errors import RunFailed
from lightexp.core.tflite_graph import TFLiteGraph
from tests.backend import tiny_keras


def build_model() -> Any:
    """Build a model with one kernel of more than 1,024 weights; the converter leaves smaller ones in float."""
    from lightexp.backend.session import import_keras, reset_graph

    reset_graph(0)
    kl = import_keras().layers
    inputs = kl.Input(tiny_keras.SHAPE)
    x = kl.Flatten()(kl.Conv2D(4, 3, activation="relu")(inputs))
    return import_keras().Model(inputs, kl.Dense(3)(kl.Dense(20, activation="relu")(x)))


def read_content(content: bytes, folder: Path) -> TFLiteGraph:
    from lightexp.backend import flatbuffer

    (folder / "model.tflite").write_bytes(content)
    return flatbuffer.read_graph(folder / "model.tflite")


def test_convert_default_makes_large_kernels_int8(tensorflow: None, tmp_path: Path) -> None:
    from lightexp.backend import converter

    content = converter.convert_default(build_model())
    tiny_keras.make_model("conv")  # other work in between
    assert converter.convert_default(build_model()) == content
    flat = read_content(content, tmp_path)
    kernels = {tensor.shape: tensor.dtype for _, tensor in flat.kernels}
    assert kernels == {(4, 3, 3, 1): "FLOAT32", (20, 64): "INT8", (3, 20): "FLOAT32"}
    assert {flat.tensors[index].dtype for index in (*flat.inputs, *flat.outputs)} == {"FLOAT32"}


def test_convert_to_float32_keeps_the_weights(tensorflow: None, tmp_path: Path) -> None:
    from lightexp.backend import converter

    net = build_model()
    flat = read_content(converter.convert_to_float32(net), tmp_path)
    assert {tensor.dtype for _, tensor in flat.kernels} == {"FLOAT32"}
    largest = max((tensor for _, tensor in flat.kernels), key=lambda tensor: tensor.data.size)
    np.testing.assert_array_equal(largest.data, tiny_keras.list_kernels(net)[1].numpy().T)


@pytest.mark.parametrize("kind", ["dense", "conv", "norm", "dropout"])
def test_bytes_equal_those_from_the_keras_model(tensorflow: None, kind: str) -> None:
    import tensorflow as tf

    from lightexp.backend import converter
    from lightexp.backend.embedded_format import make_embeddable

    net = tiny_keras.make_model(kind)
    tflite_converter = tf.lite.TFLiteConverter.from_keras_model(net)
    assert converter.convert_to_float32(net) == tflite_converter.convert()
    tflite_converter.optimizations = [tf.lite.Optimize.DEFAULT]
    assert converter.convert_default(net) == make_embeddable(tflite_converter.convert())


def test_unsavable_model_is_reported_in_one_line(
    tensorflow: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightexp.backend import converter

    deep = tmp_path
    while (rest := 4060 - len(str(deep))) > 1:  # paths of files in it exceed the limit of 4,096
        deep /= "d" * min(rest - 1, 200)
    deep.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with pytest.raises(RunFailed, match="cannot save this model for its converter"):
        converter.convert_to_float32(build_model())


def test_converter_prints_nothing(tensorflow: None, capfd: pytest.CaptureFixture[str]) -> None:
    from lightexp.backend import converter

    converter.convert_default(build_model())
    assert capfd.readouterr() == ("", "")
