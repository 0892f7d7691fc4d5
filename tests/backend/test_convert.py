from __future__ import annotations

from pathlib import Path
from typing import Any

import nets
import numpy as np
import pytest

from lightexp.core.flatmodel import FlatModel

SCHEMES = [
    ("default", False),
    ("float16", False),
    ("int8", False),
    ("int8", True),
    ("int16x8", False),
    ("int16x8", True),
]


def _model() -> Any:
    """One whose hidden kernel has more than 1,024 weights: the converter leaves smaller ones in float."""
    from lightexp.backend.session import fresh, keras

    fresh(0)
    kl = keras().layers
    inputs = kl.Input(nets.SHAPE)
    x = kl.Flatten()(kl.Conv2D(4, 3, activation="relu")(inputs))
    return keras().Model(inputs, kl.Dense(3)(kl.Dense(20, activation="relu")(x)))


def _converted(scheme: str, integer_io: bool, count: int = 16) -> bytes:
    from lightexp.backend import convert

    source = nets.data()
    samples = source.inputs(source.train.x[:count]) if scheme.startswith("int") else None
    return convert.to_quantized(_model(), scheme, integer_io, samples)


def _read(content: bytes, folder: Path) -> FlatModel:
    from lightexp.backend import flatbuffer

    (folder / "model.tflite").write_bytes(content)
    return flatbuffer.read(folder / "model.tflite")


@pytest.mark.parametrize(("scheme", "integer_io"), SCHEMES)
def test_the_types_asked_for_are_in_a_file_that_repeats(
    tensorflow: None, tmp_path: Path, scheme: str, integer_io: bool
) -> None:
    content = _converted(scheme, integer_io)
    nets.model("conv")  # other work in between
    assert _converted(scheme, integer_io) == content
    flat = _read(content, tmp_path)
    kernels = {tensor.shape: tensor.dtype for _, tensor in flat.kernels}
    small, large = "FLOAT32" if scheme == "default" else "INT8", "INT8"
    if scheme == "float16":
        small = large = "FLOAT16"
    assert kernels == {(4, 3, 3, 1): small, (20, 64): large, (3, 20): small}
    ends = {flat.tensors[index].dtype for index in (*flat.inputs, *flat.outputs)}
    integer = "INT16" if scheme == "int16x8" else "INT8"
    assert ends == {integer if integer_io else "FLOAT32"}
    activations = {flat.tensors[index].dtype for op in flat.ops if op.kind == "FULLY_CONNECTED" for index in op.outputs}
    assert activations == {integer if scheme.startswith("int") else "FLOAT32"}


def test_the_ranges_come_from_the_samples(tensorflow: None) -> None:
    assert _converted("int8", False, 16) != _converted("int8", False, 2)


def test_float32_holds_the_models_own_weights(tensorflow: None, tmp_path: Path) -> None:
    from lightexp.backend import convert

    net = _model()
    flat = _read(convert.to_float32(net), tmp_path)
    assert {tensor.dtype for _, tensor in flat.kernels} == {"FLOAT32"}
    largest = max((tensor for _, tensor in flat.kernels), key=lambda tensor: tensor.data.size)
    np.testing.assert_array_equal(largest.data, nets.kernels(net)[1].numpy().T)


def test_the_converters_chatter_stays_off_the_terminal(tensorflow: None, capfd: pytest.CaptureFixture[str]) -> None:
    _converted("int8", True)
    assert capfd.readouterr() == ("", "")
