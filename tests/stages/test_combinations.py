"""Each method after the others, on a small residual net with batch normalisation.

What stood before is kept, or the order is refused before anything is trained. The runs themselves verify the file that
ships; here it is looked at once more.
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
    "dynamic": ["quantize", "scheme=dynamic"],
    "int8": ["quantize", "scheme=int8"],
    "int4": ["quantize", "scheme=dynamic", "bits=4"],
    "qat": ["qat"],
    "encode": ["encode"],
}
FIRST, LAST = list(METHODS)[:4], list(METHODS)[5:9]
# Kernels of the net as a flatbuffer has them, outputs first: the stem's, the branch's, the shortcut's, the logits'.
WHOLE = [(8, 3, 3, 1), (16, 3, 3, 8), (16, 1, 1, 8), (4, 16)]
HALVED = [(4, 3, 3, 1), (8, 3, 3, 4), (8, 1, 1, 4), (4, 8)]
FACTORS = [
    *((3, 3, 3, 1), (8, 1, 1, 3)),
    *((3, 1, 1, 8), (6, 3, 3, 3), (16, 1, 1, 6)),
    *((3, 1, 1, 8), (16, 1, 1, 3)),
    *((2, 16), (4, 2)),
]
SHAPES = {"sparse": WHOLE, "two_of_four": WHOLE, "channels": HALVED, "factors": FACTORS}


@pytest.fixture(scope="module")
def residual(tensorflow: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Keras file of a net of two convolutions around a shortcut of 1x1."""
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


def words(*methods: str) -> list[str]:
    added = []
    for method in methods:
        stage, *values = METHODS[method]
        added += [f"+stage@pipeline.stages.{method}={stage}"]
        added += [f"pipeline.stages.{method}.{value}" for value in values]
    return ["pipeline=control", *added, f"pipeline.order=[train,{','.join(methods)}]"]


@pytest.mark.parametrize("last", LAST)
@pytest.mark.parametrize("clustered", [False, True], ids=["", "clustered"])
@pytest.mark.parametrize("first", FIRST)
def test_each_keeps_what_came_before(
    tiny_runs: TinyRuns, residual: Path, first: str, clustered: bool, last: str
) -> None:
    methods = [first, *(["cluster"] if clustered else []), last]
    model = ["model=from_file", f"model.path={residual}"]
    record = tiny_runs.run(*model, *words(*methods))
    assert not record.waived
    found = [kernel for _, kernel in tiny_runs.flat(record).kernels]
    assert sorted(tensor.shape for tensor in found) == sorted(SHAPES[first])
    for tensor in found:
        kernel = read_kernel(tensor)
        assert tensor.dtype == ("INT4" if last == "int4" else "INT8")
        if first == "two_of_four":
            assert is_n_of_m(kernel, 2, 4) or tensor.shape[-1] < 4
        if first == "sparse":
            assert np.mean(kernel == 0) > 0.75
        if clustered:
            assert count_distinct_values(kernel, per_channel=True) <= 6
    packed = tiny_runs.run(*model, *words(*methods, "encode"))
    assert [stage.from_store for stage in packed.stages] == [True] * (len(methods) + 1) + [False]
    content = tiny_runs.file(record).read_bytes()
    assert tiny_runs.file(packed).read_bytes() == content
    assert lxe.decode(tiny_runs.file(packed).with_name(ENCODED).read_bytes()) == content


def test_no_two_methods_undo_one_another_in_any_order() -> None:
    """What makes layers anew stands before what makes their weights special, quantised ones before the encoder."""
    chosen = compose_settings(["dataset=digits", *words(*METHODS)])

    def refusal(*methods: str) -> str:
        try:
            check_order(replace(chosen, stages={name: chosen.stages[name] for name in ("train", *methods)}))
        except BadInput as error:
            return str(error)
        return ""

    for before, after in permutations(METHODS, 2):
        said = refusal(before, after)
        if before in (*LAST, "encode"):
            assert bool(said) == (before == "encode" or after != "encode"), (before, after)
            assert not said or f"'{after}' cannot follow '{before}'" in said
        elif after in (*FIRST, "cluster") and before in ("sparse", "two_of_four", "cluster"):
            assert (said == "") == (after == "cluster"), (before, after)
            assert not said or f"'{after}' after '{before}' would undo its " in said
        else:
            assert said == "", (before, after)


@pytest.mark.parametrize(
    ("before", "after", "kind", "lost"),
    [
        ("two_of_four", "more", "train", "n_m"),
        ("two_of_four", "plain", "qat", "n_m"),
        ("sparse", "plain", "qat", "sparsity"),
        ("cluster", "more", "train", "codebook"),
        ("cluster", "plain", "qat", "codebook"),
    ],
)
def test_training_that_keeps_nothing_is_refused(
    tiny_runs: TinyRuns, before: str, after: str, kind: str, lost: str
) -> None:
    added = [
        f"+stage@pipeline.stages.{after}={kind}",
        *(["pipeline.stages.plain.scheme=plain"] if kind == "qat" else []),
    ]
    with pytest.raises(BadInput, match=f"'{after}' after '{before}' would undo its {lost}"):
        tiny_runs.plan(*words(before)[:-1], *added, f"pipeline.order=[train,{before},{after}]")
