"""Tests of the architectures: layers, number of weights, and that they can be compressed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightexp.core.config import construct
from lightexp.core.errors import BadInput
from lightexp.core.protocols import Model
from lightexp.models import mobilenet_v1
from lightexp.models.article_mlp import ArticleMlp
from lightexp.models.autoencoder import Autoencoder
from lightexp.models.cnn_1d import Cnn1d
from lightexp.models.ds_cnn import DsCnn
from lightexp.models.lenet5 import LeNet5
from lightexp.models.lenet_300_100 import LeNet300100
from lightexp.models.mlp import Mlp
from lightexp.models.mobilenet_v1 import MobileNetV1
from lightexp.models.resnet8 import ResNet8
from lightexp.models.small_cnn import SmallCnn
from lightexp.models.tutorial_cnn import TutorialCnn
from tests.tiny_runs import TinyRuns


def build_layers(model: Model, shape: tuple[int, ...] = (28, 28, 1), classes: int = 10) -> list[Any]:
    return list(model.build(shape, classes).layers)


def list_kinds(model: Model, shape: tuple[int, ...] = (28, 28, 1)) -> list[str]:
    return [type(layer).__name__ for layer in build_layers(model, shape)]


@pytest.mark.parametrize(
    ("model", "shape", "classes", "weights"),
    [
        (ArticleMlp(), (28, 28, 1), 10, 784 * 128 + 128 + 128 * 10 + 10),
        (LeNet300100(), (28, 28, 1), 10, 266_610),
        (LeNet5(), (28, 28, 1), 10, 431_080),
        (TutorialCnn(), (28, 28, 1), 10, 20_410),
        (ResNet8(), (32, 32, 3), 10, 78_666),
        (DsCnn(), (49, 10, 1), 12, 24_908),
        (MobileNetV1(), (96, 96, 3), 2, 221_794),
        (Cnn1d(), (40, 1), 10, 5_210),
        (Autoencoder(), (640,), 640, 264_192 + 8 * 5 * 128 + 5 * 8 + 640),
    ],
)
@pytest.mark.usefixtures("tensorflow")
def test_number_of_weights_equals_the_source(model: Model, shape: tuple[int, ...], classes: int, weights: int) -> None:
    assert model.build(shape, classes).count_params() == weights


@pytest.mark.usefixtures("tensorflow")
def test_article_mlp_layers() -> None:
    inputs, flatten, dense, dropout, logits = build_layers(ArticleMlp())
    assert list_kinds(ArticleMlp()) == ["InputLayer", "Flatten", "Dense", "Dropout", "Dense"]
    assert inputs.input_shape == [(None, 28, 28, 1)]
    assert flatten.output_shape == (None, 784)
    assert (dense.units, dense.activation.__name__, dense.use_bias) == (128, "relu", True)
    assert dropout.rate == 0.2
    assert (logits.units, logits.activation.__name__) == (10, "linear")


@pytest.mark.parametrize("value", [-0.1, 1, 1.5, float("nan")])
def test_article_mlp_dropout_out_of_range_is_refused(value: float) -> None:
    with pytest.raises(BadInput, match="dropout"):
        construct(ArticleMlp, {"dropout": value}, "model")


@pytest.mark.usefixtures("tensorflow")
def test_lenet5_layers() -> None:
    layers = build_layers(LeNet5())
    kernels = {layer.name: layer.kernel.shape.as_list() for layer in layers if hasattr(layer, "kernel")}
    assert kernels == {"conv1": [5, 5, 1, 20], "conv2": [5, 5, 20, 50], "dense1": [800, 500], "logits": [500, 10]}
    assert list_kinds(LeNet5()) == ["InputLayer", *["Conv2D", "MaxPooling2D"] * 2, "Flatten", "Dense", "Dense"]


@pytest.mark.usefixtures("tensorflow")
def test_lenet_300_100_layers() -> None:
    assert [layer.units for layer in build_layers(LeNet300100()) if hasattr(layer, "units")] == [300, 100, 10]


@pytest.mark.parametrize(("hidden", "units"), [([20, 10], [10, 5, 3]), ([], [3])])
@pytest.mark.usefixtures("tensorflow")
def test_mlp_has_the_hidden_layers_of_its_setting(hidden: list[int], units: list[int]) -> None:
    layers = build_layers(Mlp(width=0.5, hidden=hidden), (8,), 3)
    assert [layer.units for layer in layers if hasattr(layer, "units")] == units
    assert [layer.activation.__name__ for layer in layers[2:]] == ["relu"] * len(hidden) + ["linear"]


@pytest.mark.usefixtures("tensorflow")
def test_small_cnn_layers() -> None:
    block = ["Conv2D", "BatchNormalization", "ReLU", "MaxPooling2D"]
    assert list_kinds(SmallCnn()) == ["InputLayer", *block, *block, "Flatten", "Dense"]
    convolutions = [layer for layer in build_layers(SmallCnn()) if type(layer).__name__ == "Conv2D"]
    assert [(layer.filters, layer.kernel_size, layer.use_bias) for layer in convolutions] == [
        (16, (3, 3), False),
        (32, (3, 3), False),
    ]


@pytest.mark.parametrize("model", [ArticleMlp(), LeNet5(), LeNet300100(), Mlp(), SmallCnn()])
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 1), (5, 5, 2)])
@pytest.mark.usefixtures("tensorflow")
def test_small_images_are_accepted(model: Model, shape: tuple[int, ...]) -> None:
    model.check(shape, 2)
    assert model.build(shape, 2).output_shape == (None, 2)


@pytest.mark.parametrize("model", [ArticleMlp(), LeNet300100(), Mlp()])
@pytest.mark.usefixtures("tensorflow")
def test_dense_networks_accept_features(model: Model) -> None:
    model.check((64,), 10)
    assert model.build((64,), 3).output_shape == (None, 3)


@pytest.mark.parametrize("name", ["resnet8", "mobilenet_v1"])
def test_residual_and_depthwise_networks_compress(
    name: str, tiny_runs: TinyRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mobilenet_v1, "BLOCKS", mobilenet_v1.BLOCKS[3:7])  # the others are like these
    record = tiny_runs.run(f"model={name}", "pipeline=prune_int8", "seed=4")  # a seed that no other test takes
    assert [stage.name for stage in record.stages] == ["train", "prune", "quantize"]
    assert record.metrics["model/sparsity"] > 0.5
    assert np.isfinite(record.metrics["loss/val"])
    assert record.metrics["size/ratio"] > 1


def test_network_for_series_compresses(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(120) % 3
    x = rng.normal(size=(120, 40, 1)).astype(np.float32) + y[:, None, None]
    path = tmp_path / "series.npz"
    np.savez(path, x=x[..., 0][..., None], y=y)
    record = tiny_runs.run("model=cnn_1d", f"dataset.path={path}", "pipeline=prune_int8")
    assert record.metrics["model/sparsity"] > 0.5
