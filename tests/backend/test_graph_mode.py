"""Tests of `lightexp.backend.graph_mode`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest


def make_model(units: int = 2) -> Any:
    from lightexp.backend.session import import_keras

    keras = import_keras()
    inputs = keras.layers.Input((6, 4))
    x = keras.layers.GRU(3)(keras.layers.LayerNormalization()(inputs))
    return keras.Model(inputs, keras.layers.Dense(units)(x / 2.0))


@pytest.mark.parametrize("error", [None, KeyError])
def test_models_in_memory_stay_usable(error: type[Exception] | None, tensorflow: None, tmp_path: Path) -> None:
    import tensorflow as tf

    from lightexp.backend.graph_mode import describe_only

    model = make_model()
    inputs = np.ones((1, 6, 4), np.float32)
    before = model(inputs).numpy()
    try:
        with describe_only():
            assert make_model(units=10**12).count_params() > 10**12
            if error:
                raise error
    except KeyError:
        pass
    np.testing.assert_array_equal(model(inputs).numpy(), before)
    tf.saved_model.save(model, str(tmp_path))
