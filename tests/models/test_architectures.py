"""Architectures of the literature: their sizes, and that they can be compressed."""

from __future__ import annotations

import numpy as np
import pytest

from lightexp.core.protocols import Model
from lightexp.models.cnn_1d import Cnn1d
from lightexp.models.ds_cnn import DsCnn
from lightexp.models.mobilenet_v1 import MobileNetV1
from lightexp.models.resnet8 import ResNet8
from lightexp.models.tutorial_cnn import TutorialCnn
from tests.tiny_runs import TinyRuns


@pytest.mark.parametrize(
    ("model", "shape", "classes", "weights"),
    [
        (TutorialCnn(), (28, 28, 1), 10, 20_410),
        (ResNet8(), (32, 32, 3), 10, 78_666),
        (DsCnn(), (49, 10, 1), 12, 24_908),
        (MobileNetV1(), (96, 96, 3), 2, 221_794),
        (Cnn1d(), (40, 1), 10, 5_210),
    ],
)
@pytest.mark.usefixtures("tensorflow")
def test_it_has_the_weights_of_its_source(model: Model, shape: tuple[int, ...], classes: int, weights: int) -> None:
    assert model.build(shape, classes).count_params() == weights


@pytest.mark.parametrize("name", ["resnet8", "mobilenet_v1"])
def test_residual_and_depthwise_networks_are_pruned_and_quantised(name: str, tiny_runs: TinyRuns) -> None:
    record = tiny_runs.run(f"model={name}", "pipeline=prune_int8")
    assert [stage.name for stage in record.stages] == ["train", "prune", "quantize"]
    assert record.metrics["model/sparsity"] > 0.5
    assert np.isfinite(record.metrics["loss/val"])
    assert record.metrics["size/ratio"] > 1


def test_a_series_is_pruned_and_quantised(tiny_runs: TinyRuns, tmp_path: object) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(120) % 3
    x = rng.normal(size=(120, 40, 1)).astype(np.float32) + y[:, None, None]
    path = f"{tmp_path}/series.npz"
    np.savez(path, x=x[..., 0][..., None], y=y)
    record = tiny_runs.run("model=cnn_1d", f"dataset.path={path}", "pipeline=prune_int8")
    assert record.metrics["model/sparsity"] > 0.5
