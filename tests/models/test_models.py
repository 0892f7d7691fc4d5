from __future__ import annotations

from typing import Any

import pytest

from lightexp.core.config import construct
from lightexp.core.errors import BadInput
from lightexp.core.protocols import Model
from lightexp.models.article_mlp import ArticleMlp
from lightexp.models.lenet5 import LeNet5
from lightexp.models.lenet_300_100 import LeNet300100
from lightexp.models.small_cnn import SmallCnn

pytestmark = pytest.mark.usefixtures("tensorflow")


def layers(model: Model, shape: tuple[int, ...] = (28, 28, 1), classes: int = 10) -> list[Any]:
    return list(model.build(shape, classes).layers)


def kinds(model: Model, shape: tuple[int, ...] = (28, 28, 1)) -> list[str]:
    return [type(layer).__name__ for layer in layers(model, shape)]


def test_the_article_s_network() -> None:
    inputs, flatten, dense, dropout, logits = layers(ArticleMlp())
    assert kinds(ArticleMlp()) == ["InputLayer", "Flatten", "Dense", "Dropout", "Dense"]
    assert inputs.input_shape == [(None, 28, 28, 1)]
    assert flatten.output_shape == (None, 784)
    assert (dense.scale_units, dense.activation.__name__, dense.use_bias) == (128, "relu", True)
    assert dropout.rate == 0.2
    assert (logits.scale_units, logits.activation.__name__) == (10, "linear")
    assert ArticleMlp().build((28, 28, 1), 10).count_params() == 784 * 128 + 128 + 128 * 10 + 10


def test_lenet_5_has_the_literature_s_weights() -> None:
    model = LeNet5().build((28, 28, 1), 10)
    assert model.count_params() == 431_080
    kernels = {layer.name: layer.kernel.shape.as_list() for layer in model.layers if hasattr(layer, "kernel")}
    assert kernels == {"conv1": [5, 5, 1, 20], "conv2": [5, 5, 20, 50], "dense1": [800, 500], "logits": [500, 10]}
    assert kinds(LeNet5()) == ["InputLayer", *["Conv2D", "MaxPooling2D"] * 2, "Flatten", "Dense", "Dense"]


def test_lenet_300_100() -> None:
    units = [layer.scale_units for layer in layers(LeNet300100()) if hasattr(layer, "units")]
    assert units == [300, 100, 10]
    assert LeNet300100().build((28, 28, 1), 10).count_params() == 266_610


def test_small_cnn() -> None:
    block = ["Conv2D", "BatchNormalization", "ReLU", "MaxPooling2D"]
    assert kinds(SmallCnn()) == ["InputLayer", *block, *block, "Flatten", "Dense"]
    convolutions = [layer for layer in layers(SmallCnn()) if type(layer).__name__ == "Conv2D"]
    assert [(c.filters, c.kernel_size, c.use_bias) for c in convolutions] == [(16, (3, 3), False), (32, (3, 3), False)]


@pytest.mark.parametrize("model", [ArticleMlp(), LeNet5(), LeNet300100(), SmallCnn()])
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 1), (5, 5, 2)])
def test_small_maps_are_no_obstacle(model: Model, shape: tuple[int, ...]) -> None:
    model.check(shape, 2)
    assert model.build(shape, 2).output_shape == (None, 2)


@pytest.mark.parametrize("model", [LeNet5(), SmallCnn()])
def test_what_is_no_image_is_refused_where_convolutions_need_one(model: Model) -> None:
    with pytest.raises(BadInput, match=r"needs images of shape \(height, width, channels\)\. Received: \(64,\)\."):
        model.check((64,), 10)


def test_features_are_enough_for_dense_networks() -> None:
    for model in (ArticleMlp(), LeNet300100()):
        model.check((64,), 10)
        assert model.build((64,), 3).output_shape == (None, 3)


def test_widths_multiply_and_keep_at_least_one_unit() -> None:
    third = LeNet5().scaled(1 / 3)
    assert (third.scale_units(20), third.scale_units(50), third.scale_units(500)) == (7, 17, 167)
    assert third.scaled(3).scale_units(500) == 500
    assert LeNet5(1e-6).build((28, 28, 1), 10).output_shape == (None, 10)
    assert ArticleMlp(dropout=0.5).scaled(0.5) == ArticleMlp(width=0.5, dropout=0.5)


@pytest.mark.parametrize("value", [-0.1, 1, 1.5, float("nan")])
def test_a_dropout_out_of_range_is_refused(value: float) -> None:
    with pytest.raises(BadInput, match="dropout"):
        construct(ArticleMlp, {"dropout": value}, "model")
