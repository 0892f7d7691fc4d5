"""Tests of factorised layers: they compute like the product of their factors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightexp.core.lowrank import Ranks, Spectra, multiply_factors, ranks_for_ratio
from tests.backend.test_channels import CLASSES, IMAGE, NETS, compute_logits, randomize_vectors, reset_keras

pytestmark = pytest.mark.usefixtures("tensorflow")


def factorize_all(model: Any, ratio: float) -> dict[str, Any]:
    """Return the factors of every layer that can be factorised, smaller or not."""
    from lightexp.backend.factors import find_factorable

    factorable, _ = find_factorable(model)
    kernels = {name: model.get_layer(name).kernel.numpy() for name in factorable}
    return {name: Spectra(kernel).factors(ranks_for_ratio(kernel.shape, ratio)) for name, kernel in kernels.items()}


def assign_products(model: Any, factors: dict[str, Any]) -> Any:
    """Set the model's kernels to the products of factors and return it."""
    for name, parts in factors.items():
        kernel = model.get_layer(name).kernel
        kernel.assign(multiply_factors(parts).astype(np.float32))
    return model


def build_geometry() -> Any:
    """Build a model with strides, padding, dilation, a layer called twice, and layers that cannot be factorised."""
    keras = reset_keras()
    kl = keras.layers
    inputs = kl.Input(IMAGE)
    x = kl.Conv2D(8, (3, 1), strides=2, padding="same", activation="tanh", name="strided")(inputs)
    x = kl.Conv2D(8, 3, dilation_rate=2, padding="same", use_bias=False, name="dilated")(x)
    x = kl.BatchNormalization()(x)
    x = kl.Conv2D(9, 1, strides=(2, 2), padding="same", activation="relu", name="point")(x)
    twice = kl.Conv2D(9, 3, padding="same", activation="tanh", name="twice")
    x = kl.Add()([twice(twice(x)), x])
    x = kl.Conv2D(9, 3, groups=3, padding="same", name="groups")(x)
    x = kl.DepthwiseConv2D(3, padding="same", name="depth")(x)
    x = kl.SeparableConv2D(6, 3, padding="same", name="separable")(x)
    x = kl.Conv2DTranspose(6, 3, name="transposed")(x)
    x = kl.Reshape((25, 6))(x)
    x = kl.Dense(5, activation="tanh", name="each")(x)
    x = kl.Conv1D(7, 3, padding="causal", dilation_rate=2, name="causal")(x)
    x = kl.Dense(6, activation="softmax", name="twice_core")(kl.GlobalAveragePooling1D()(x))
    return keras.Model(inputs, kl.Dense(CLASSES, use_bias=False, name="out")(x))


def build_without_input_layer() -> Any:
    """Build a sequential model whose first layer gives the input's shape."""
    keras = reset_keras()
    first = keras.layers.Conv2D(6, 3, activation="relu", name="conv", input_shape=IMAGE)
    return keras.Sequential([first, keras.layers.Flatten(), keras.layers.Dense(CLASSES, name="out")])


NETS = {name: NETS[name] for name in ("resnet8", "mobilenet_v1", "cnn_1d", "lenet_300_100", "concatenating")}


@pytest.mark.parametrize("net", [*NETS, "geometry", "unnamed_input"])
def test_factors_compute_like_their_product(net: str) -> None:
    from lightexp.backend.factors import factorize_model

    model = randomize_vectors((NETS | {"geometry": build_geometry, "unnamed_input": build_without_input_layer})[net]())
    before, weights, factors = compute_logits(model), model.get_weights(), factorize_all(model, 0.5)
    smaller = factorize_model(model, factors)
    assert type(smaller) is type(model)
    assert all(np.array_equal(*pair) for pair in zip(model.get_weights(), weights, strict=True))  # unchanged
    after, rounding = compute_logits(smaller), 2e-6 * max(1.0, float(np.abs(before).max()))
    assert np.abs(after - before).max() > 1e-3
    assert (
        np.abs(compute_logits(factorize_model(model, factorize_all(model, 1.0))) - before).max() < rounding
    )  # at full rank
    assert np.abs(compute_logits(assign_products(model, factors)) - after).max() < rounding
    for name in factors:  # the last factor replaces the layer
        assert smaller.get_layer(name).output.shape == model.get_layer(name).output.shape
        assert smaller.get_layer(name).activation is model.get_layer(name).activation
    assert [w.shape for w in type(smaller).from_config(smaller.get_config()).weights] == [
        w.shape for w in smaller.weights
    ]


def test_factor_names_are_stable_and_unique() -> None:
    from lightexp.backend.factors import factorize_model, find_factorable

    model = build_geometry()
    smaller = factorize_model(model, factorize_all(model, 0.5))
    names = [layer.name for layer in smaller.layers]
    assert [n for n in names if n.startswith("twice")] == [
        "twice_reduce",
        "twice_core_2",
        "twice",
        "twice_core_core",
        "twice_core",
    ]
    assert find_factorable(model)[1] == {
        "batch_normalization": "only Conv1D, Conv2D, Dense are factorised",
        "groups": "its filters are in 3 groups",
        **dict.fromkeys(("depth", "separable", "transposed"), "only Conv1D, Conv2D, Dense are factorised"),
    }
    twice = factorize_model(smaller, factorize_all(smaller, 0.5))
    assert len({layer.name for layer in twice.layers}) == len(twice.layers)
    assert {"twice_core_2_reduce", "twice_core_2_core", "twice_core_2", "twice"} <= {
        layer.name for layer in twice.layers
    }


@pytest.mark.parametrize("net", ["resnet8", "cnn_1d", "lenet_300_100"])
def test_compute_savings_equals_the_files(net: str, tmp_path: Path) -> None:
    from lightexp.backend import converter
    from lightexp.backend.channels import ModelCost
    from lightexp.backend.factors import factorize_model, find_factorable
    from lightexp.backend.flatbuffer import read_graph
    from lightexp.metrics.graph import count_macs

    model = randomize_vectors(NETS[net]())
    factorable, _ = find_factorable(model)
    saved = {name: layer.compute_savings(ranks_for_ratio(layer.shape, 0.4)) for name, layer in factorable.items()}
    smaller = {name: parts for name, parts in factorize_all(model, 0.4).items() if saved[name].params}
    assert smaller
    assert all(layer.compute_savings(Ranks(*layer.shape[-2:])) == ModelCost(0, 0) for layer in factorable.values())
    costs = []
    for built in (model, factorize_model(model, smaller)):
        (tmp_path / "m").write_bytes(converter.convert_to_float32(built))
        flat = read_graph(tmp_path / "m")
        costs.append((count_macs(flat)[0], sum(int(np.prod(t.shape)) for t in flat.weights)))
    assert costs[0][0] - costs[1][0] == sum(cost.macs for cost in saved.values()) > 0
    # The file holds equal zero biases once, so that it may save a little more.
    predicted, rest = (
        sum(cost.params for cost in saved.values()),
        sum(parts.core.shape[-1] * 2 for parts in smaller.values()),
    )
    assert 0 < predicted <= costs[0][1] - costs[1][1] <= predicted + rest
