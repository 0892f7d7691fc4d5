"""Tests of a loaded model's ports: quantisation of inputs and outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lightexp.backend.litert_model import TensorPort
from lightexp.core.errors import BadInput


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
