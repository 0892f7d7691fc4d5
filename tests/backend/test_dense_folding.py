"""Tests of folding batch normalisations into dense layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lightexp.backend.dense_folding import find_foldable, fold_normalizations
from lightexp.backend.session import import_keras, reset_graph

pytestmark = pytest.mark.usefixtures("tensorflow")
X = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)


def build(layers: list[Any]) -> Any:
    model = import_keras().Sequential([import_keras().layers.Input((6,)), *layers])
    rng = np.random.default_rng(1)
    model.set_weights([np.abs(rng.normal(size=w.shape)) if w.ndim == 1 else w for w in model.get_weights()])
    return model


def test_folded_model_computes_the_same() -> None:
    reset_graph(0)
    kl = import_keras().layers
    body = [kl.Dense(5, name="a", use_bias=False), kl.BatchNormalization(name="na"), kl.ReLU()]
    model = build([*body, kl.Dense(4, name="b"), kl.BatchNormalization(name="nb", scale=False, center=False)])
    kernel = model.get_layer("a").kernel.numpy()
    kernel[:3] = 0.0
    model.get_layer("a").set_weights([kernel])
    folded = fold_normalizations(model)
    np.testing.assert_allclose(folded(X), model(X), atol=1e-5)
    assert [layer.name for layer in folded.layers if layer.weights] == ["a", "b"]
    assert not folded.get_layer("a").kernel.numpy()[:3].any()
    assert find_foldable(model) == {"na": "a", "nb": "b"}


def test_branches_keep_their_values() -> None:
    reset_graph(0)
    kl = import_keras().layers
    inputs = kl.Input((6,))
    shared = kl.Dense(6, name="shared")(inputs)
    own = kl.BatchNormalization(name="own")(kl.Dense(6, name="dense")(inputs))
    outputs = kl.Add()([kl.BatchNormalization(name="kept")(shared), shared, own])
    model = import_keras().Model(inputs, outputs)
    model.set_weights([w + 0.5 for w in model.get_weights()])
    assert find_foldable(model) == {"own": "dense"}
    np.testing.assert_allclose(fold_normalizations(model)(X), model(X), atol=1e-5)


def test_other_models_stay_as_they_are() -> None:
    reset_graph(0)
    kl = import_keras().layers
    model = build([kl.Dense(5, activation="relu"), kl.BatchNormalization(), kl.Reshape((5, 1)), kl.Dense(3)])
    assert fold_normalizations(model) is model
