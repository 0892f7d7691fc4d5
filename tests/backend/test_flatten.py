"""Tests of flattening models that contain models."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.usefixtures("tensorflow")


def build_backbone(name: str) -> Any:
    """Build a residual block of 4 channels with random weights and statistics."""
    import tensorflow as tf

    from lightexp.backend.session import import_keras

    kl = import_keras().layers
    inputs = kl.Input((6, 6, 4))
    x = kl.BatchNormalization(name=f"{name}_norm")(kl.Conv2D(4, 3, padding="same", name="conv")(inputs))
    model = import_keras().Model(inputs, tf.nn.relu6(kl.Add()([x, inputs])), name=name)
    model.set_weights([w + 0.1 + np.random.default_rng(1).random(w.shape) for w in model.get_weights()])
    return model


def build_nested() -> Any:
    """Build two backbones, one of them called twice, and a head; some layers share a name."""
    from lightexp.backend.session import import_keras, reset_graph

    reset_graph(0)
    kl = import_keras().layers
    backbone = build_backbone("one")
    head = [
        kl.GlobalAveragePooling2D(),
        import_keras().Sequential([kl.Dropout(0.5), kl.Dense(3, name="conv")], name="inner"),
    ]
    inputs = kl.Input((6, 6, 1), name="pixels")
    x = kl.Conv2D(4, 1, name="conv")(inputs)
    x = backbone(x, training=False)
    x = backbone(kl.Add()([x, x]), training=False)
    x = build_backbone("two")(x)
    return import_keras().Model(inputs, import_keras().Sequential(head, name="head")(x), name="outer")


def test_flatten_model_computes_the_same() -> None:
    from lightexp.backend.flatten import flatten_model
    from lightexp.backend.session import import_keras

    model = build_nested()
    flat = flatten_model(model)
    assert not any(isinstance(layer, import_keras().Model) for layer in flat.layers)
    x = np.random.default_rng(0).random((5, 6, 6, 1), np.float32)
    assert np.array_equal(flat.predict(x, verbose=0), model.predict(x, verbose=0))
    assert flat.count_params() == model.count_params()
    rebuilt = import_keras().models.model_from_json(flat.to_json())
    rebuilt.set_weights(flat.get_weights())
    assert np.array_equal(rebuilt.predict(x, verbose=0), model.predict(x, verbose=0))


def test_flatten_model_keeps_free_names() -> None:
    from lightexp.backend.flatten import flatten_model

    flat = flatten_model(build_nested())
    convolutions = [layer.name for layer in flat.layers if layer.name.endswith("conv")]
    assert convolutions == ["conv", "one_conv", "two_conv", "inner_conv"]
    assert {"pixels", "one_norm", "two_norm"} <= {layer.name for layer in flat.layers}


def test_flatten_model_keeps_fixed_training() -> None:
    from lightexp.backend.flatten import flatten_model

    flat = flatten_model(build_nested())
    before = {layer.name: layer.get_weights() for layer in flat.layers if layer.name.endswith("norm")}
    flat(np.random.default_rng(0).random((5, 6, 6, 1), np.float32), training=True)
    moved = {
        name
        for name, weights in before.items()
        if any(not np.array_equal(a, b) for a, b in zip(weights, flat.get_layer(name).get_weights(), strict=True))
    }
    assert moved == {"two_norm"}


def test_flatten_model_returns_flat_models_unchanged() -> None:
    from lightexp.backend.flatten import flatten_model

    model = build_backbone("one")
    assert flatten_model(model) is model


def test_flatten_model_drops_augmentation_keeps_statistics() -> None:
    from lightexp.backend.flatten import find_idle_layers, flatten_model
    from lightexp.backend.session import import_keras, reset_graph

    reset_graph(0)
    kl = import_keras().layers
    normalization = kl.Normalization(name="normalization")
    normalization.adapt(np.random.default_rng(0).random((20, 6, 6, 2)))
    layers = [kl.RandomFlip(name="flip"), kl.RandomRotation(0.1, name="turn"), normalization, kl.Flatten(), kl.Dense(3)]
    model = import_keras().Sequential([kl.Input((6, 6, 2)), *layers])
    assert find_idle_layers(model) == ["flip", "turn"]
    flat = flatten_model(model)
    assert [layer.name for layer in flat.layers[1:]] == ["normalization", "flatten", "dense"]
    x = np.random.default_rng(1).random((5, 6, 6, 2), np.float32)
    rebuilt = import_keras().models.model_from_json(flat.to_json())
    rebuilt.set_weights(flat.get_weights())
    assert np.allclose(rebuilt.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-6)


def test_flatten_model_splits_separable_convolutions() -> None:
    from lightexp.backend.flatten import flatten_model
    from lightexp.backend.session import import_keras, reset_graph

    reset_graph(0)
    kl = import_keras().layers
    separable = kl.SeparableConv2D(5, 3, strides=2, padding="same", depth_multiplier=2, activation="relu", name="sep")
    line = kl.SeparableConv1D(4, 3, use_bias=False, name="line")
    model = import_keras().Sequential([kl.Input((8, 8, 3)), separable, kl.Reshape((16, 5)), line])
    model.set_weights([w + 0.1 * np.random.default_rng(1).random(w.shape) for w in model.get_weights()])
    flat = flatten_model(model)
    names = [layer.name for layer in flat.layers if layer.weights]
    assert names == ["sep_depthwise", "sep", "line_depthwise", "line"]
    x = np.random.default_rng(0).random((5, 8, 8, 3), np.float32)
    np.testing.assert_allclose(flat(x).numpy(), model(x).numpy(), rtol=1e-5, atol=1e-6)
