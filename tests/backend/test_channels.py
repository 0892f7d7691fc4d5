"""Removing channels gives what zeroing them gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightexp.core.errors import BadInput
from lightexp.models.cnn_1d import Cnn1d
from lightexp.models.ds_cnn import DsCnn
from lightexp.models.lenet_300_100 import LeNet300100
from lightexp.models.mobilenet_v1 import MobileNetV1
from lightexp.models.resnet8 import ResNet8
from lightexp.models.small_cnn import SmallCnn
from lightexp.models.tutorial_cnn import TutorialCnn

pytestmark = pytest.mark.usefixtures("tensorflow")
IMAGE, CLASSES = (12, 12, 3), 4


def fresh() -> Any:
    """Keras, with nothing built."""
    from lightexp.backend import session

    session.reset_graph(0)
    return session.import_keras()


def lively(model: Any) -> Any:
    """The model with biases and statistics that are not what they start as, and no filter that is always off."""
    rng = np.random.default_rng(1)
    model.set_weights([w if w.ndim > 1 else rng.uniform(0.3, 1.2, w.shape) for w in model.get_weights()])
    for layer in model.layers:
        if hasattr(layer, "beta"):
            layer.beta.assign(layer.beta + 1)
    return model


def logits(model: Any) -> Any:
    x = np.random.default_rng(2).normal(size=(5, *model.input_shape[1:])).astype(np.float32)
    return model(x, training=False).numpy()


def concatenating() -> Any:
    """Branches that are concatenated, added across, pooled with a bias-free neighbour, and multiplied."""
    keras = fresh()
    kl = keras.layers
    inputs = kl.Input(IMAGE)
    x = kl.Rescaling(0.5)(inputs)
    a = kl.Conv2D(6, 3, padding="same", name="a", activation="relu")(x)
    b = kl.Conv2D(5, 1, name="b", use_bias=False)(x)
    both = kl.Concatenate()([a, kl.PReLU(shared_axes=[1, 2])(kl.BatchNormalization()(b))])
    c = kl.Conv2D(11, 1, name="c")(both)
    both = kl.ReLU()(kl.Add()([both, c]))
    gate = kl.Dense(11, activation="tanh", name="gate")(kl.GlobalAveragePooling2D(keepdims=True)(both))
    both = kl.Multiply()([both, gate])
    wide = kl.DepthwiseConv2D(3, depth_multiplier=2, name="d")(kl.ZeroPadding2D(1)(both))
    x = kl.Concatenate()([kl.Flatten()(kl.MaxPooling2D(4)(wide)), kl.GlobalMaxPooling2D()(both)])
    x = kl.Dense(9, name="e", activation="tanh")(kl.Dropout(0.1)(x))
    x = kl.BatchNormalization()(kl.Reshape((3, 3))(x))
    x = kl.Conv1D(6, 2, name="f")(kl.ZeroPadding1D(1)(x))
    return keras.Model(inputs, kl.Dense(CLASSES, name="out")(kl.Reshape((-1,))(x)))


def sequential() -> Any:
    keras = fresh()
    kl = keras.layers
    layers = [kl.Conv2D(6, 3, activation="relu", name="conv"), kl.AveragePooling2D(), kl.Flatten(), kl.Dense(CLASSES)]
    return keras.Sequential([kl.Input(IMAGE), *layers])


def shipped(model: Any, shape: tuple[int, ...]) -> Callable[[], Any]:
    def build() -> Any:
        fresh()
        return model.build(shape, CLASSES)

    return build


NETS = {
    "small_cnn": shipped(SmallCnn(0.5), IMAGE),
    "resnet8": shipped(ResNet8(0.5), IMAGE),
    "mobilenet_v1": shipped(MobileNetV1(0.1), IMAGE),
    "ds_cnn": shipped(DsCnn(0.2), IMAGE),
    "tutorial_cnn": shipped(TutorialCnn(), IMAGE),
    "cnn_1d": shipped(Cnn1d(0.5), (30, 2)),
    "lenet_300_100": shipped(LeNet300100(0.05), IMAGE),
    "concatenating": concatenating,
    "sequential": sequential,
}


def half(graph: Any, seed: int = 3) -> set[int]:
    """About half of the channels of each space, drawn by chance, but not all of any layer."""
    rng, gone = np.random.default_rng(seed), set[int]()
    for space in graph.groups:
        for channel in rng.permutation(space.channels)[: len(space.channels) // 2].tolist():
            if all(set(graph.output_channels[name].tolist()) - gone - {channel} for name in space.layers):
                gone.add(channel)
    return gone


def zeroed(model: Any, gone: dict[str, list[int]]) -> None:
    """Zeroes the filters `gone`, and then whatever a layer adds to channels that have become zero everywhere.

    That is known by running the model, not from its graph; with ReLUs that let all through, so that no filter is off
    for another reason.
    """
    from lightexp.backend.session import import_keras

    relus = [(layer, layer.max_value) for layer in model.layers if type(layer).__name__ == "ReLU"]
    for layer, _ in relus:
        layer.negative_slope, layer.max_value = np.float32(1), None
    for layer in model.layers:
        weights = layer.get_weights()
        if layer.name in gone:
            for weight in weights:
                weight[..., gone[layer.name]] = 0
        elif weights and not hasattr(layer, "alpha"):
            seen = logits(import_keras().Model(model.inputs, layer.input))
            dark = np.abs(seen).max(axis=tuple(range(seen.ndim - 1))) == 0
            if hasattr(layer, "gamma"):
                weights[1][dark] = weights[2][dark] = 0  # beta and the moving mean
            elif layer.use_bias:
                weights[1][np.repeat(dark, layer.depth_multiplier)] = 0
        layer.set_weights(weights)
    for layer, top in relus:
        layer.negative_slope, layer.max_value = np.float32(0), top


def places(graph: Any, gone: set[int]) -> dict[str, list[int]]:
    """Which of each layer's filters are among the channels `gone`."""
    return {name: [i for i, c in enumerate(row.tolist()) if c in gone] for name, row in graph.output_channels.items()}


@pytest.mark.parametrize("net", NETS)
def test_removing_is_zeroing(net: str) -> None:
    from lightexp.backend.channels import ChannelGraph

    model = lively(NETS[net]())
    before = logits(model)
    graph = ChannelGraph(model)
    gone = half(graph)
    smaller, filters = graph.remove(gone), places(graph, gone)
    assert sum(map(len, filters.values())) >= 3
    for name, row in graph.output_channels.items():
        assert smaller.get_layer(name).output.shape[-1] == len(row) - len(filters[name])
    assert not filters[model.layers[-1].name if net != "concatenating" else "out"]
    assert np.array_equal(logits(model), before)  # the model itself is left as it was
    zeroed(model, filters)
    assert np.abs(logits(smaller) - logits(model)).max() < 1e-5
    assert np.abs(logits(smaller) - before).max() > 1e-3
    again = ChannelGraph(smaller)
    assert again.compute_cost() == graph.compute_cost(gone)
    assert [space.layers for space in again.groups] == [space.layers for space in graph.groups]


@pytest.mark.parametrize("net", ["small_cnn", "resnet8", "ds_cnn", "lenet_300_100", "cnn_1d"])
def test_the_costs_are_the_file_s(net: str, tmp_path: Path) -> None:
    from lightexp.backend import converter
    from lightexp.backend.channels import ChannelGraph
    from lightexp.backend.flatbuffer import read_graph
    from lightexp.metrics.graph import count_macs

    graph = ChannelGraph(lively(NETS[net]()))
    file, gone = tmp_path / "model.tflite", half(graph)
    file.write_bytes(converter.convert_to_float32(graph.remove(gone)))
    flat, cost = read_graph(file), graph.compute_cost(gone)
    assert cost.macs == count_macs(flat)[0] < graph.compute_cost().macs
    assert cost.params == sum(int(np.prod(t.shape)) for t in flat.weights) < graph.compute_cost().params


def test_what_is_added_goes_together() -> None:
    from lightexp.backend.channels import ChannelGraph

    tied = {space.layers: len(space.channels) for space in ChannelGraph(NETS["resnet8"]()).groups}
    assert tied == {
        ("stem", "stack1_conv2"): 8,
        ("stack1_conv1",): 8,
        ("stack2_conv1",): 16,
        ("stack2_conv2", "stack2_shortcut"): 16,
        ("stack3_conv1",): 32,
        ("stack3_conv2", "stack3_shortcut"): 32,
    }
    tied = {space.layers: len(space.channels) for space in ChannelGraph(concatenating()).groups}
    # 'c' is added to 'a' beside 'b'; 'e' is folded into rows of three.
    assert tied == {("b", "a", "c", "gate"): 11, ("e",): 3, ("f",): 6}


def test_what_cannot_be_followed_is_named() -> None:
    from lightexp.backend.channels import ChannelGraph

    keras = fresh()
    kl = keras.layers

    def refused(*layers: Any) -> str:
        inputs = kl.Input(IMAGE)
        x = kl.Conv2D(6, 1)(inputs)
        for layer in layers:
            x = layer(x)
        with pytest.raises(BadInput) as error:
            ChannelGraph(keras.Model(inputs, kl.Dense(CLASSES)(kl.Flatten()(x))))
        return str(error.value)

    assert refused(kl.LayerNormalization(name="ln")).startswith(
        "the channels of layer 'ln' (LayerNormalization) cannot be followed: what a LayerNormalization does"
    )
    assert "'g' (Conv2D) cannot be followed: its filters are in 2 groups" in refused(
        kl.Conv2D(4, 1, groups=2, name="g")
    )
    assert "its softmax mixes the channels" in refused(kl.Softmax())
    assert "its softmax mixes the channels" in refused(kl.Conv2D(4, 1, activation="softmax"))
    assert "it normalises axis 1, not the last" in refused(kl.BatchNormalization(axis=1))
    assert "its channels come first" in refused(kl.MaxPooling2D(data_format="channels_first"))
    twice = kl.Conv2D(6, 1, name="twice")
    assert "'twice' (Conv2D) cannot be followed: it is used more than once" in refused(twice, twice)
    # A softmax at the end mixes nothing that may go, and before the first layer that learns there is nothing to follow.
    inputs = kl.Input(IMAGE)
    x = kl.Conv2D(6, 1)(kl.LayerNormalization()(kl.Permute((2, 1, 3))(inputs)))
    model = keras.Model(inputs, kl.Softmax()(kl.Dense(CLASSES)(kl.Flatten()(x))))
    assert len(ChannelGraph(model).groups) == 1


STEPS = ["conv", "depth", "norm", "relu", "pool", "branch", "cat", "mul", "flat", "dense", "fold"]


@settings(max_examples=25)
@given(steps=st.lists(st.sampled_from(STEPS), max_size=7), seed=st.integers(0, 9))
def test_removing_is_zeroing_in_any_net(steps: list[str], seed: int) -> None:
    from lightexp.backend.channels import ChannelGraph

    keras = fresh()
    kl = keras.layers
    inputs = kl.Input((6, 6, 2))
    x = kl.Conv2D(4, 3, padding="same")(inputs)
    for step in steps:
        width, flat = x.shape[-1], len(x.shape) == 2
        learn = kl.Dense if flat else lambda n: kl.Conv2D(n, 1)
        if step == "conv":
            x = kl.Dense(5)(x) if flat else kl.Conv2D(5, 3, padding="same")(x)
        elif step == "depth" and not flat:
            x = kl.DepthwiseConv2D(3, padding="same", depth_multiplier=1 + (width < 6))(x)
        elif step == "norm":
            x = kl.BatchNormalization()(x)
        elif step == "relu":
            x = kl.LeakyReLU()(x)
        elif step == "pool" and not flat:
            x = kl.MaxPooling2D(2, padding="same")(x)
        elif step == "branch":
            x = kl.Add()([x, learn(width)(x)])
        elif step == "cat":
            x = kl.Concatenate()([x, learn(3)(x)])
        elif step == "mul":
            x = kl.Multiply()([learn(1)(x), x])
        elif step == "flat":
            x = kl.Flatten()(x)
        elif step == "dense":
            x = kl.Dense(6, activation="tanh")(x)
        elif step == "fold" and flat and width % 2 == 0:
            x = kl.Reshape((width // 2, 1, 2))(x)
    model = lively(keras.Model(inputs, kl.Dense(CLASSES)(kl.Flatten()(x))))
    graph = ChannelGraph(model)
    gone = half(graph, seed)
    smaller = graph.remove(gone)
    zeroed(model, places(graph, gone))
    scale = max(1.0, float(np.abs(logits(model)).max()))
    assert np.abs(logits(smaller) - logits(model)).max() < 1e-5 * scale
