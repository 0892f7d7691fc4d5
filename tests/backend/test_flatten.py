"""Models inside models are taken apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.usefixtures("tensorflow")


def backbone(name: str) -> Any:
    """A residual block of 4 channels, whose weights and statistics are no initial ones."""
    import tensorflow as tf

    from lightexp.backend.session import import_keras

    kl = import_keras().layers
    inputs = kl.Input((6, 6, 4))
    x = kl.BatchNormalization(name=f"{name}_norm")(kl.Conv2D(4, 3, padding="same", name="conv")(inputs))
    model = import_keras().Model(inputs, tf.nn.relu6(kl.Add()([x, inputs])), name=name)
    model.set_weights([w + 0.1 + np.random.default_rng(1).random(w.shape) for w in model.get_weights()])
    return model


def nested() -> Any:
    """Two backbones, one of them called twice, and a head, with layers of one name among them."""
    from lightexp.backend.session import import_keras, reset_graph

    reset_graph(0)
    kl = import_keras().layers
    one = backbone("one")
    head = [
        kl.GlobalAveragePooling2D(),
        import_keras().Sequential([kl.Dropout(0.5), kl.Dense(3, name="conv")], name="inner"),
    ]
    inputs = kl.Input((6, 6, 1), name="pixels")
    x = kl.Conv2D(4, 1, name="conv")(inputs)
    x = one(x, training=False)
    x = one(kl.Add()([x, x]), training=False)
    x = backbone("two")(x)
    return import_keras().Model(inputs, import_keras().Sequential(head, name="head")(x), name="whole")


def test_it_is_the_same_function_of_plain_layers() -> None:
    from lightexp.backend.flatten import flatten_model
    from lightexp.backend.session import import_keras

    model = nested()
    flat = flatten_model(model)
    assert not any(isinstance(layer, import_keras().Model) for layer in flat.layers)
    x = np.random.default_rng(0).random((5, 6, 6, 1), np.float32)
    assert np.array_equal(flat.predict(x, verbose=0), model.predict(x, verbose=0))
    assert flat.count_params() == model.count_params()
    again = import_keras().models.model_from_json(flat.to_json())
    again.set_weights(flat.get_weights())
    assert np.array_equal(again.predict(x, verbose=0), model.predict(x, verbose=0))


def test_names_are_kept_where_they_are_free() -> None:
    from lightexp.backend.flatten import flatten_model

    flat = flatten_model(nested())
    convolutions = [layer.name for layer in flat.layers if layer.name.endswith("conv")]
    assert convolutions == ["conv", "one_conv", "two_conv", "inner_conv"]
    assert {"pixels", "one_norm", "two_norm"} <= {layer.name for layer in flat.layers}


def test_what_was_called_as_in_inference_stays_so() -> None:
    from lightexp.backend.flatten import flatten_model

    flat = flatten_model(nested())
    before = {layer.name: layer.get_weights() for layer in flat.layers if layer.name.endswith("norm")}
    flat(np.random.default_rng(0).random((5, 6, 6, 1), np.float32), training=True)
    moved = {
        name
        for name, weights in before.items()
        if any(not np.array_equal(a, b) for a, b in zip(weights, flat.get_layer(name).get_weights(), strict=True))
    }
    assert moved == {"two_norm"}


def test_a_model_of_plain_layers_is_left_alone() -> None:
    from lightexp.backend.flatten import flatten_model

    model = backbone("one")
    assert flatten_model(model) is model
