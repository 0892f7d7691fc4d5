"""Tests of the base classes of models: width factors, and the refusal of other data than images."""

from __future__ import annotations

import pytest

from lightexp.core.errors import BadInput
from lightexp.core.protocols import Model
from lightexp.models.article_mlp import ArticleMlp
from lightexp.models.lenet5 import LeNet5
from lightexp.models.small_cnn import SmallCnn


def test_scaled_multiplies_width() -> None:
    third = LeNet5().scaled(1 / 3)
    assert (third.scale_units(20), third.scale_units(50), third.scale_units(500)) == (7, 17, 167)
    assert third.scaled(3).scale_units(500) == 500
    assert ArticleMlp(dropout=0.5).scaled(0.5) == ArticleMlp(width=0.5, dropout=0.5)


@pytest.mark.usefixtures("tensorflow")
def test_tiny_width_leaves_one_unit() -> None:
    assert LeNet5(1e-6).build((28, 28, 1), 10).output_shape == (None, 10)


@pytest.mark.parametrize("model", [LeNet5(), SmallCnn()])
def test_image_model_refuses_other_data(model: Model) -> None:
    with pytest.raises(BadInput, match=r"needs images of shape \(height, width, channels\)\. Received: \(64,\)\."):
        model.check((64,), 10)
