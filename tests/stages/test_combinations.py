"""Tests of stages in combination, on a small residual network with batch normalisation.

The invariants of earlier stages are preserved, or the order is refused before training. The runs verify the shipped
file; these tests verify it independently.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from lightexp.core.errors import BadInput
from lightexp.core.patterns import count_distinct_values, is_n_of_m, read_kernel
from lightexp.core.protocols import ENCODED
from lightexp.export import lxe
from lightexp.runner.compose import compose_settings
from lightexp.runner.order import check_order
from tests.tiny_runs import TinyRuns

METHODS = {
    "sparse": ["prune", "sparsity=0.8"],
    "two_of_four": ["prune", "n=2", "m=4"],
    "channels": ["prune_channels"],
    "factors": ["factorize"],
    "cluster": ["cluster", "k=6"],
    "rate": ["rate", "from_scratch=false"],
    "dynamic": ["quantize", "scheme=dynamic"],
    "int8": ["quantize", "scheme=int8"],
    "int4": ["quantize", "scheme=dynamic", "bits=4"],
    "qat": ["qat"],
    "encode": ["encode"],
}
FIRST, LAST = list(METHODS)[:4], list(METHODS)[6:10]
REFUSED_AFTER_RATE = (*FIRST, "cluster", "int4", "qat")
# Kernel shapes in the flatbuffer, outputs first: stem, branch, shortcut, logits.
FULL = [(8, 3, 3, 1), (16, 3, 3, 8), (16, 1, 1, 8), (4, 16)]
HALVED = [(4, 3, 3, 1), (8, 3, 3, 4), (8, 1, 1, 4), (4, 8)]
FACTORS = [
    *((3, 3, 3, 1), (8, 1, 1, 3)),
    *((3, 1, 1, 8), (6, 3, 3, 3), (16, 1, 1, 6)),
    *((3, 1, 1, 8), (16, 1, 1, 3)),
    *((2, 16), (4, 2)),
]
SHAPES = {"sparse": FULL, "two_of_four": FULL, "channels": HALVED, "factors": FACTORS}


@pytest.fixture(scope="module")
def residual(tensorflow: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a Keras file of a network with two convolutions and a 1x1 shortcut."""
    from lightexp.backend.session import import_keras, reset_graph

    reset_graph(0)
    kl = import_keras().layers
    inputs = kl.Input((8, 8, 1))
    x = kl.ReLU()(kl.BatchNormalization(momentum=0.8)(kl.Conv2D(8, 3, name="stem")(inputs)))
    y = kl.BatchNormalization(momentum=0.8)(kl.Conv2D(16, 3, padding="same", use_bias=False, name="branch")(x))
    x = kl.ReLU()(kl.Add()([y, kl.Conv2D(16, 1, name="shortcut")(x)]))
    model = import_keras().Model(inputs, kl.Dense(4, name="logits")(kl.GlobalAveragePooling2D()(x)))
    path = tmp_path_factory.mktemp("residual") / "residual.keras"
    model.save(path)
    return path


def make_overrides(*methods: str) -> list[str]:
    overrides = []
    for method in methods:
        stage, *values = METHODS[method]
        overrides += [f"+stage@pipeline.stages.{method}={stage}"]
        overrides += [f"pipeline.stages.{method}.{value}" for value in values]
    return ["pipeline=control", *overrides, f"pipeline.order=[train,{','.join(methods)}]"]


@pytest.mark.parametrize("last", LAST)
@pytest.mark.parametrize("clustered", [False, True], ids=["", "clustered"])
@pytest.mark.parametrize("first", FIRST)
def test_later_stages_preserve_earlier_ones(
    tiny_runs: TinyRuns, residual: Path, first: str, clustered: bool, last: str
) -> None:
    methods = [first, *(["cluster"] if clustered else []), last]
    model = ["model=from_file", f"model.path={residual}"]
    record = tiny_runs.run(*model, *make_overrides(*methods))
    assert not record.waived
    kernels = [kernel for _, kernel in tiny_runs.read_graph(record).kernels]
    assert sorted(tensor.shape for tensor in kernels) == sorted(SHAPES[first])
    for tensor in kernels:
        kernel = read_kernel(tensor)
        assert tensor.dtype == ("INT4" if last == "int4" else "INT8")
        if first == "two_of_four":
            assert is_n_of_m(kernel, 2, 4) or tensor.shape[-1] < 4
        if first == "sparse":
            assert np.mean(kernel == 0) > 0.75
        if clustered:
            assert count_distinct_values(kernel, per_channel=True) <= 6
    packed = tiny_runs.run(*model, *make_overrides(*methods, "encode"))
    assert [stage.from_store for stage in packed.stages] == [True] * (len(methods) + 1) + [False]
    content = tiny_runs.get_file(record).read_bytes()
    assert tiny_runs.get_file(packed).read_bytes() == content
    assert lxe.decode(tiny_runs.get_file(packed).with_name(ENCODED).read_bytes()) == content


def test_order_of_each_pair_of_methods() -> None:
    """Stages that replace layers precede those that constrain weights; quantisation precedes the encoder."""
    settings = compose_settings(["dataset=digits", *make_overrides(*METHODS)])

    def refusal(*methods: str) -> str:
        try:
            check_order(replace(settings, stages={name: settings.stages[name] for name in ("train", *methods)}))
        except BadInput as error:
            return str(error)
        return ""

    for before, after in permutations(METHODS, 2):
        message = refusal(before, after)
        if before in (*LAST, "encode"):
            assert bool(message) == (before == "encode" or after != "encode"), (before, after)
            assert not message or f"'{after}' cannot follow '{before}'" in message
        elif before == "rate":
            assert (message == "") == (after not in REFUSED_AFTER_RATE), (before, after)
            assert not message or f"'{after}' after 'rate' would undo its " in message
        elif after in (*FIRST, "cluster", "rate") and before in ("sparse", "two_of_four", "cluster"):
            assert (message == "") == (after == "cluster"), (before, after)
            assert not message or f"'{after}' after '{before}' would undo its " in message
        else:
            assert message == "", (before, after)


@pytest.mark.parametrize(
    ("before", "after", "kind", "lost"),
    [
        ("two_of_four", "more", "train", "n_m"),
        ("two_of_four", "plain", "qat", "n_m"),
        ("sparse", "plain", "qat", "sparsity"),
        ("cluster", "more", "train", "codebook"),
        ("cluster", "plain", "qat", "codebook"),
        ("rate", "more", "train", "sparsity"),
        ("rate", "plain", "qat", "sparsity"),
    ],
)
def test_stage_that_destroys_invariant_is_refused(
    tiny_runs: TinyRuns, before: str, after: str, kind: str, lost: str
) -> None:
    overrides = [
        f"+stage@pipeline.stages.{after}={kind}",
        *(["pipeline.stages.plain.scheme=plain"] if kind == "qat" else []),
    ]
    with pytest.raises(BadInput, match=f"'{after}' after '{before}' would undo its {lost}"):
        tiny_runs.plan(*make_overrides(before)[:-1], *overrides, f"pipeline.order=[train,{before},{after}]")
