"""Tests of a loaded model's ports: quantisation of inputs and outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lightexp.backend import litert_model
from lightexp.backend.litert_model import LoadedModel, TensorPort
from lightexp.core.data import scale_inputs
from lightexp.core.errors import BadInput
from lightexp.core.preprocessing import Factor
from tests.metrics import tiny_models


def test_tensor_port_rounds_to_the_nearest() -> None:
    port = TensorPort(0, np.int8, 0.5, 3)
    values = np.array([0.0, 0.2, 0.3, -0.2, -0.3, 99, -99], np.float32)
    np.testing.assert_array_equal(port.encode(values), np.array([3, 3, 4, 3, 2, 127, -128], np.int8))
    np.testing.assert_array_equal(port.decode(np.array([3, 4, -128], np.int8)), np.array([0, 0.5, -65.5], np.float32))


@pytest.mark.parametrize(
    ("dtype", "scale", "message"),
    [(np.float16, 1.0, r"Received: float16\."), (np.int8, 0.0, r"Received: int8 without a scale\.")],
)
def test_tensor_port_refuses_other_types(dtype: type[np.generic], scale: float, message: str) -> None:
    details = {"index": 0, "dtype": dtype, "quantization": (scale, 0)}
    with pytest.raises(BadInput, match=rf"m\.tflite: input and output must be.*{message} Convert the model again"):
        TensorPort.from_details(details, Path("m.tflite"))


@pytest.mark.parametrize("scheme", ["float", "int8"])
@pytest.mark.parametrize(("scale", "offset"), [(1 / 255, 0.0), ((0.01, 0.02, 0.03), (-1.0, 0.0, 1.0))])
def test_written_input_equals_scaled_and_encoded_examples(
    scheme: str, scale: Factor, offset: Factor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(litert_model, "BLOCK_BYTES", 2_000)  # of two examples
    shape = tiny_models.SHAPES["conv"]
    path = tmp_path / "m.tflite"
    path.write_bytes(tiny_models.make_tflite("conv", scheme))
    raw = np.random.default_rng(0).integers(0, 256, (7, *shape), np.uint8)
    model = LoadedModel.open(path, (9, *shape), 1)
    model.write_input(raw, scale, offset)
    written = model.interpreter.get_tensor(model.source.index)
    expected = model.source.encode(scale_inputs(raw, scale, offset))
    np.testing.assert_array_equal(written[:7].reshape(expected.shape), expected)
    assert not written[7:].any()
    model.invoke()  # which LiteRT refuses as long as anything refers to its memory
