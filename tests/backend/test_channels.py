"""Tests of channel groups: removing channels equals zeroing them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightexp.core.data import Data, Split
from lightexp.core.errors import BadInput
from lightexp.models import mobilenet_v1
from lightexp.models.cnn_1d import Cnn1d
from lightexp.models.ds_cnn import DsCnn
from lightexp.models.lenet_300_100 import LeNet300100
from lightexp.models.mobilenet_v1 import MobileNetV1
from lightexp.models.resnet8 import ResNet8
from lightexp.models.small_cnn import SmallCnn
from lightexp.models.tutorial_cnn import TutorialCnn

pytestmark = pytest.mark.usefixtures("tensorflow")
IMAGE, CLASSES = (12, 12, 3), 4


def reset_keras() -> Any:
    """Reset Keras' graphs and return its module."""
    from lightexp.backend import session

    session.reset_graph(0)
    return session.import_keras()


def randomize_vectors(model: Any) -> Any:
    """Give biases and statistics random values, such that no filter is always off, and return the model."""
    rng = np.random.default_rng(1)
    model.set_weights([w if w.ndim > 1 else rng.uniform(0.3, 1.2, w.shape) for w in model.get_weights()])
    for layer in model.layers:
        if hasattr(layer, "beta"):
            layer.beta.assign(layer.beta + 1)
    return model


def compute_logits(model: Any) -> Any:
    x = np.random.default_rng(2).normal(size=(5, *model.input_shape[1:])).astype(np.float32)
    return model(x, training=False).numpy()


def build_branches() -> Any:
    """Build a model with branches that are concatenated, added, pooled and multiplied."""
    keras = reset_keras()
    kl = keras.layers
    inputs = kl.Input(IMAGE)
    x = kl.Rescaling(0.5)(inputs)
    a = kl.Conv2D(6, 3, padding="same", name="a", activation="relu")(x)
    b = kl.Conv2D(5, 1, name="b", use_bias=False)(x)
    joined = kl.Concatenate()([a, kl.PReLU(shared_axes=[1, 2])(kl.BatchNormalization()(b))])
    c = kl.Conv2D(11, 1, name="c")(joined)
    joined = kl.ReLU()(kl.Add()([joined, c]))
    gate = kl.Dense(11, activation="tanh", name="gate")(kl.GlobalAveragePooling2D(keepdims=True)(joined))
    joined = kl.Multiply()([joined, gate])
    wide = kl.DepthwiseConv2D(3, depth_multiplier=2, name="d")(kl.ZeroPadding2D(1)(joined))
    x = kl.Concatenate()([kl.Flatten()(kl.MaxPooling2D(4)(wide)), kl.GlobalMaxPooling2D()(joined)])
    x = kl.Dense(9, name="e", activation="tanh")(kl.Dropout(0.1)(x))
    x = kl.BatchNormalization()(kl.Reshape((3, 3))(x))
    x = kl.Conv1D(6, 2, name="f")(kl.ZeroPadding1D(1)(x))
    return keras.Model(inputs, kl.Dense(CLASSES, name="out")(kl.Reshape((-1,))(x)))


def build_sequential() -> Any:
    keras = reset_keras()
    kl = keras.layers
    layers = [kl.Conv2D(6, 3, activation="relu", name="conv"), kl.AveragePooling2D(), kl.Flatten(), kl.Dense(CLASSES)]
    return keras.Sequential([kl.Input(IMAGE), *layers])


def build_pinned() -> Any:
    """Build a model in which some layers need all channels that they read, and a transposed convolution does not."""
    keras = reset_keras()
    kl = keras.layers
    inputs = kl.Input(IMAGE)
    x = kl.Conv2D(6, 3, padding="same", name="up_input", activation="relu")(inputs)
    x = kl.Conv2DTranspose(8, 3, strides=2, padding="same", name="up", activation="relu")(x)
    x = kl.Conv2D(8, 3, strides=2, padding="same", name="before_groups", activation="tanh")(x)
    x = kl.Conv2D(4, 1, groups=2, name="grouped")(x)
    x = kl.Conv2D(6, 1, name="free", activation="tanh")(x)
    return keras.Model(inputs, kl.Dense(CLASSES, name="out")(kl.Flatten()(x)))


def make_builder(model: Any, shape: tuple[int, ...]) -> Callable[[], Any]:
    def build() -> Any:
        reset_keras()
        return model.build(shape, CLASSES)

    return build


def build_short_mobilenet() -> Any:
    """Build MobileNet with its first blocks, which the others are like."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mobilenet_v1, "BLOCKS", mobilenet_v1.BLOCKS[:5])
        return make_builder(MobileNetV1(0.1), IMAGE)()


NETS = {
    "small_cnn": make_builder(SmallCnn(0.5), IMAGE),
    "resnet8": make_builder(ResNet8(0.5), IMAGE),
    "mobilenet_v1": build_short_mobilenet,
    "ds_cnn": make_builder(DsCnn(0.2), IMAGE),
    "tutorial_cnn": make_builder(TutorialCnn(), IMAGE),
    "cnn_1d": make_builder(Cnn1d(0.5), (30, 2)),
    "lenet_300_100": make_builder(LeNet300100(0.05), IMAGE),
    "concatenating": build_branches,
    "pinned": build_pinned,
    "sequential": build_sequential,
}


def draw_half(graph: Any, seed: int = 3) -> set[int]:
    """Draw about half of the channels of each group, but not all of any layer."""
    rng, removed = np.random.default_rng(seed), set[int]()
    for group in graph.groups:
        for channel in rng.permutation(group.channels)[: len(group.channels) // 2].tolist():
            if all(set(graph.output_channels[name].tolist()) - removed - {channel} for name in group.layers):
                removed.add(channel)
    return removed


def zero_filters(model: Any, removed: dict[str, list[int]]) -> None:
    """Zero the filters `removed`, and then whatever a layer adds to channels that have become zero everywhere.

    These channels are found by running the model, not from its graph, with ReLUs that pass negative values, so that
    no filter is off for another reason.
    """
    from lightexp.backend.session import import_keras

    relus = [(layer, layer.max_value) for layer in model.layers if type(layer).__name__ == "ReLU"]
    for layer, _ in relus:
        layer.negative_slope, layer.max_value = np.float32(1), None
    for layer in model.layers:
        weights = layer.get_weights()
        if layer.name in removed:
            for weight in weights:
                is_transposed = weight.ndim > 1 and type(layer).__name__ == "Conv2DTranspose"
                (weight.swapaxes(-1, -2) if is_transposed else weight)[..., removed[layer.name]] = 0
        elif weights and not hasattr(layer, "alpha") and layer.name != "grouped":
            inputs = compute_logits(import_keras().Model(model.inputs, layer.input))
            is_zero = np.abs(inputs).max(axis=tuple(range(inputs.ndim - 1))) == 0
            if hasattr(layer, "gamma"):
                weights[1][is_zero] = weights[2][is_zero] = 0  # beta and the moving mean
            elif layer.use_bias:
                weights[1][np.repeat(is_zero, layer.depth_multiplier)] = 0
        layer.set_weights(weights)
    for layer, top in relus:
        layer.negative_slope, layer.max_value = np.float32(0), top


def list_filters(graph: Any, removed: set[int]) -> dict[str, list[int]]:
    """Return the places of each layer's filters that are among the channels `removed`."""
    return {
        name: [i for i, c in enumerate(row.tolist()) if c in removed] for name, row in graph.output_channels.items()
    }


@pytest.mark.parametrize("net", NETS)
def test_remove_equals_zeroing(net: str) -> None:
    from lightexp.backend.channels import ChannelGraph

    model = randomize_vectors(NETS[net]())
    before = compute_logits(model)
    graph = ChannelGraph(model)
    removed = draw_half(graph)
    smaller, filters = graph.remove(removed), list_filters(graph, removed)
    assert sum(map(len, filters.values())) >= 3
    for name, row in graph.output_channels.items():
        assert smaller.get_layer(name).output.shape[-1] == len(row) - len(filters[name])
    assert not filters["out" if net in ("concatenating", "pinned") else model.layers[-1].name]
    assert np.array_equal(compute_logits(model), before)  # the model itself is unchanged
    zero_filters(model, filters)
    assert np.abs(compute_logits(smaller) - compute_logits(model)).max() < 1e-5
    assert np.abs(compute_logits(smaller) - before).max() > 1e-3
    smaller_graph = ChannelGraph(smaller)
    assert smaller_graph.compute_cost() == graph.compute_cost(removed)
    assert [group.layers for group in smaller_graph.groups] == [group.layers for group in graph.groups]


@pytest.mark.parametrize("net", ["small_cnn", "resnet8", "ds_cnn", "lenet_300_100", "cnn_1d", "pinned"])
def test_compute_cost_equals_the_files(net: str, tmp_path: Path) -> None:
    from lightexp.backend import converter
    from lightexp.backend.channels import ChannelGraph
    from lightexp.backend.flatbuffer import read_graph
    from lightexp.metrics.graph import count_macs

    graph = ChannelGraph(randomize_vectors(NETS[net]()))
    file, removed = tmp_path / "model.tflite", draw_half(graph)
    file.write_bytes(converter.convert_to_float32(graph.remove(removed)))
    flat, cost = read_graph(file), graph.compute_cost(removed)
    assert cost.macs == count_macs(flat)[0] < graph.compute_cost().macs
    assert cost.params == sum(int(np.prod(t.shape)) for t in flat.weights) < graph.compute_cost().params


def test_scores_are_of_the_filters_of_transposed_convolutions() -> None:
    from lightexp.backend.channels import ChannelGraph
    from lightexp.backend.importance import score_channels

    model = randomize_vectors(build_pinned())
    graph, up = ChannelGraph(model), model.get_layer("up")
    kernel = up.kernel.numpy()
    kernel[:, :, 3] = 0
    up.set_weights([kernel, up.bias.numpy() * 0])
    x = np.random.default_rng(0).random((40, *IMAGE)).astype(np.float32)
    split = Split(x, np.arange(40) % CLASSES)
    for criterion in ("l1", "l2", "taylor"):
        scores = score_channels(model, graph, criterion, 0, Data("d", split, split, split, CLASSES))
        row = graph.output_channels["up"]
        assert scores[row[3]] == 0
        assert (scores[row[[0, 1, 2, 4, 5, 6, 7]]] > 0).all()


def test_added_layers_share_a_group() -> None:
    from lightexp.backend.channels import ChannelGraph

    tied = {group.layers: len(group.channels) for group in ChannelGraph(NETS["resnet8"]()).groups}
    assert tied == {
        ("stem", "stack1_conv2"): 8,
        ("stack1_conv1",): 8,
        ("stack2_conv1",): 16,
        ("stack2_conv2", "stack2_shortcut"): 16,
        ("stack3_conv1",): 32,
        ("stack3_conv2", "stack3_shortcut"): 32,
    }
    tied = {group.layers: len(group.channels) for group in ChannelGraph(build_branches()).groups}
    # 'c' is added to 'a' with 'b'; 'e' is reshaped into rows of three.
    assert tied == {("b", "a", "c", "gate"): 11, ("e",): 3, ("f",): 6}


@pytest.mark.parametrize("offset", [3.0, [3.0, 1.0, 2.0, 0.0]])
def test_rescaling_by_one_number_passes_channels_on(offset: Any) -> None:
    """As in the gate of a hard swish; a number for each channel would have to be removed with it."""
    from lightexp.backend.channels import ChannelGraph

    keras = reset_keras()
    kl = keras.layers
    inputs = kl.Input(IMAGE)
    x = kl.Conv2D(4, 3, name="conv")(inputs)
    x = kl.Multiply()([x, kl.ReLU(6.0)(kl.Rescaling(1.0, offset, name="shift")(x))])
    model = keras.Model(inputs, kl.Dense(CLASSES)(kl.Flatten()(x)))
    graph = ChannelGraph(model)
    if isinstance(offset, list):
        assert not graph.groups
        assert graph.pinned == {"conv": "shift"}
        assert graph.pinning == {"shift": "a Rescaling cannot do without some"}
    else:
        [group] = graph.groups
        assert group.layers == ("conv",)
        assert len(group.channels) == 4


def test_layers_that_need_all_channels_keep_them() -> None:
    from lightexp.backend.channels import ChannelGraph

    keras = reset_keras()
    kl = keras.layers

    def build(*layers: Any) -> Any:
        inputs = kl.Input(IMAGE)
        x = kl.Conv2D(6, 1, name="first")(inputs)
        for layer in layers:
            x = layer(x)
        return ChannelGraph(keras.Model(inputs, kl.Dense(CLASSES)(kl.Flatten()(kl.Conv2D(5, 1, name="second")(x)))))

    def find_reason(layer: Any) -> str:
        graph = build(layer)
        assert graph.pinned == {"first": layer.name}
        assert [group.layers for group in graph.groups] == [("second",)]
        return str(graph.pinning[layer.name])

    assert find_reason(kl.LayerNormalization()) == "a LayerNormalization cannot do without some"
    assert find_reason(kl.Conv2D(4, 1, groups=2)) == "its filters are in 2 groups"
    assert find_reason(kl.Softmax()) == "its softmax mixes the channels"
    assert find_reason(kl.BatchNormalization(axis=1)) == "it normalises axis 1, not the last"
    assert find_reason(kl.MaxPooling2D(data_format="channels_first")) == "its channels come first"
    assert build(kl.Conv2D(4, 1, activation="softmax", name="mixing")).pinned == {"mixing": "mixing"}
    twice = kl.Conv2D(6, 1, name="twice")
    with pytest.raises(BadInput, match="'twice' \\(Conv2D\\) cannot be followed: it is used more than once"):
        build(twice, twice)
    # A softmax at the end mixes no removable channels; before the first layer with weights there are none to follow.
    inputs = kl.Input(IMAGE)
    x = kl.Conv2D(6, 1)(kl.LayerNormalization()(kl.Permute((2, 1, 3))(inputs)))
    model = keras.Model(inputs, kl.Softmax()(kl.Dense(CLASSES)(kl.Flatten()(x))))
    assert len(ChannelGraph(model).groups) == 1


STEPS = ["conv", "depth", "norm", "relu", "pool", "branch", "cat", "mul", "flat", "dense", "fold"]


@settings(max_examples=25)
@given(steps=st.lists(st.sampled_from(STEPS), max_size=7), seed=st.integers(0, 9))
def test_remove_equals_zeroing_in_random_nets(steps: list[str], seed: int) -> None:
    from lightexp.backend.channels import ChannelGraph

    keras = reset_keras()
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
    model = randomize_vectors(keras.Model(inputs, kl.Dense(CLASSES)(kl.Flatten()(x))))
    graph = ChannelGraph(model)
    removed = draw_half(graph, seed)
    smaller = graph.remove(removed)
    zero_filters(model, list_filters(graph, removed))
    scale = max(1.0, float(np.abs(compute_logits(model)).max()))
    assert np.abs(compute_logits(smaller) - compute_logits(model)).max() < 1e-5 * scale
