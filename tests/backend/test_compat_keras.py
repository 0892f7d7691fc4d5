"""Tests of what `lightexp.core.compat` relies on in tf_keras and in generated flatbuffer code."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lightexp.core import compat


@pytest.fixture
def keras(tensorflow: None) -> Any:
    from lightexp.backend.session import import_keras, reset_graph

    reset_graph(0)
    return import_keras()


def test_list_keras_layers_descends_into_models(keras: Any) -> None:
    inner = keras.Sequential([keras.layers.Dense(2, input_shape=(3,), name="dense")], name="inner")
    model = keras.Sequential([inner, keras.layers.Dropout(0.5, name="dropout")], name="outer")
    names = [layer.name for layer in compat.list_keras_layers(model)]
    assert names[0] == "outer"
    assert set(names) >= {"inner", "dense", "dropout"}


def test_random_generators_belong_to_layers_that_draw(keras: Any) -> None:
    generator = compat.get_random_generator(keras.layers.Dropout(0.5))
    assert isinstance(generator, compat.get_random_generator_class(keras))
    assert compat.get_random_generator(keras.layers.Flatten()) is None


def test_set_random_generator_changes_what_a_layer_draws(keras: Any) -> None:
    base = compat.get_random_generator_class(keras)

    class FixedSeed(base):  # type: ignore[misc, valid-type]
        def make_seed_for_stateless_op(self) -> Any:
            return [3, 0]

    layer = keras.layers.Dropout(0.5)
    compat.set_random_generator(layer, FixedSeed(rng_type=base.RNG_STATELESS))
    inputs = np.ones((1, 50), np.float32)
    first, second = (layer(inputs, training=True).numpy() for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert 0 < np.count_nonzero(first) < first.size


def test_list_keras_nodes_is_in_order_of_calls(keras: Any) -> None:
    inputs = keras.layers.Input((3,), name="in")
    hidden = keras.layers.Dense(3, name="hidden")(inputs)
    outputs = keras.layers.Add(name="add")([inputs, hidden])
    nodes = compat.list_keras_nodes(keras.Model(inputs, outputs))
    assert [node.layer.name for node in nodes] == ["in", "hidden", "add"]


@pytest.mark.parametrize(("kind", "expected"), [("Dropout", True), ("BatchNormalization", True), ("Flatten", False)])
def test_expects_training_is_true_where_call_takes_it(keras: Any, kind: str, expected: bool) -> None:
    layer = keras.layers.Dropout(0.5) if kind == "Dropout" else getattr(keras.layers, kind)()
    assert compat.expects_training(layer) is expected


def test_locate_first_vector_finds_a_buffers_bytes() -> None:
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    values = np.arange(7, dtype=np.uint8) + 100
    builder = flatbuffers.Builder(64)
    builder.Finish(schema.BufferT(data=values).Pack(builder))
    content = bytes(builder.Output())
    start = compat.locate_first_vector(schema.Buffer.GetRootAs(content))
    assert content[start : start + len(values)] == values.tobytes()
