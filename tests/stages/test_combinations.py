"""Each method after the others, on a small residual net with batch normalisation.

What stood before is kept, or the order is refused before anything is trained. The runs themselves verify the file that
ships; here it is looked at once more.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_runs import TinyRuns

from lightexp.core.errors import BadInput
from lightexp.core.patterns import distinct, kernels, obeys, real

PRUNED = {"sparse": ["sparsity=0.8"], "2:4": ["n=2", "m=4"]}
LAST = {"dynamic": ["quantize"], "int8": ["quantize", "pipeline.stages.last.scheme=int8"], "qat": ["qat"]}


@pytest.fixture(scope="module")
def residual(tensorflow: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Keras file of a net of two convolutions around a shortcut of 1x1."""
    from lightexp.backend.session import fresh, keras

    fresh(0)
    kl = keras().layers
    inputs = kl.Input((8, 8, 1))
    x = kl.ReLU()(kl.BatchNormalization(momentum=0.8)(kl.Conv2D(8, 3, name="stem")(inputs)))
    y = kl.BatchNormalization(momentum=0.8)(kl.Conv2D(16, 3, padding="same", use_bias=False, name="branch")(x))
    x = kl.ReLU()(kl.Add()([y, kl.Conv2D(16, 1, name="shortcut")(x)]))
    model = keras().Model(inputs, kl.Dense(4, name="logits")(kl.GlobalAveragePooling2D()(x)))
    path = tmp_path_factory.mktemp("residual") / "residual.keras"
    model.save(path)
    return path


def words(residual: Path, pruned: str, clustered: bool, last: str) -> list[str]:
    stage, *settings = LAST[last]
    order = ["train", "prune", *(["cluster"] if clustered else []), "last"]
    added = ["+stage@pipeline.stages.cluster=cluster", "pipeline.stages.cluster.k=6"] if clustered else []
    return [
        *("pipeline=prune", "model=from_file", f"model.path={residual}", f"pipeline.order=[{','.join(order)}]"),
        *(f"pipeline.stages.prune.{setting}" for setting in PRUNED[pruned]),
        *added,
        f"+stage@pipeline.stages.last={stage}",
        *settings,
    ]


@pytest.mark.parametrize("last", LAST)
@pytest.mark.parametrize("clustered", [False, True], ids=["", "clustered"])
@pytest.mark.parametrize("pruned", PRUNED)
def test_each_keeps_what_came_before(
    tiny_runs: TinyRuns, residual: Path, pruned: str, clustered: bool, last: str
) -> None:
    record = tiny_runs.run(*words(residual, pruned, clustered, last))
    assert not record.waived
    found = {tensor.shape: tensor for tensor in kernels(tiny_runs.flat(record))}
    large = (16, 3, 3, 8)  # the smaller ones a dynamic quantiser leaves as they are
    assert found[large].dtype == "INT8"
    assert len(found) == 4
    for shape, tensor in found.items():
        kernel = real(tensor)
        if pruned == "2:4":
            assert obeys(kernel, 2, 4) or shape[-1] < 4
        else:
            assert np.mean(kernel == 0) > 0.75
        if clustered:
            assert distinct(kernel, per_channel=True) <= 6


@pytest.mark.parametrize(
    ("order", "lost"),
    [
        (["cluster", "again"], "'again' after 'cluster' would undo its codebook"),
        (["prune", "more"], "'more' after 'prune' would undo its n_m"),
        (["prune", "plain"], "'plain' after 'prune' would undo its n_m"),
        (["cluster", "more"], "'more' after 'cluster' would undo its codebook"),
        (["cluster", "plain"], "'plain' after 'cluster' would undo its codebook"),
        (["plain", "prune"], "'prune' cannot follow 'plain'"),
        (["last", "cluster"], "'cluster' cannot follow 'last'"),
    ],
)
def test_what_would_be_undone_is_refused_before_training(tiny_runs: TinyRuns, order: list[str], lost: str) -> None:
    kinds = {"again": "prune", "more": "train", "plain": "qat", "last": "quantize", "cluster": "cluster"}
    added = [f"+stage@pipeline.stages.{name}={kinds[name]}" for name in order if name in kinds]
    added += ["pipeline.stages.plain.scheme=plain"] if "plain" in order else []
    added += ["pipeline.stages.prune.n=2", "pipeline.stages.prune.m=4"] if "prune" in order else []
    pipeline = "pipeline=prune" if "prune" in order else "pipeline=control"
    with pytest.raises(BadInput, match=lost):
        tiny_runs.plan(pipeline, *added, f"pipeline.order=[train,{','.join(order)}]")
