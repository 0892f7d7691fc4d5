"""The layers that settings of `search.per_layer` are expanded by."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lightexp.core.errors import BadInput
from lightexp.search.layer_names import find_layer_names, find_layer_names_in_process
from lightexp.search.study_spec import StudySpec
from tests.search.studies import PLUGIN, write_arrays

pytestmark = pytest.mark.usefixtures("warm_workers")
MakeSpec = Callable[..., StudySpec]
QUANTIZE_LAYERS = "pipeline.stages.quantize.layers"


@pytest.fixture
def make_file_spec(make_spec: MakeSpec, tmp_path: Path) -> MakeSpec:
    """Make specifications of studies of a .tflite with the layers `dense1` and `logits`."""
    place = [f"model.path={PLUGIN / 'tiny.tflite'}", f"dataset.path={write_arrays(tmp_path)}"]
    return lambda *more: make_spec("search=mixed_precision", "model=from_file", "dataset=arrays", *place, *more)


def test_keras_model_is_built_in_a_worker_process(make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec(
        "search=mixed_precision", "model=lenet5", "dataset=arrays", f"dataset.path={write_arrays(tmp_path)}"
    )
    assert find_layer_names(spec) == {QUANTIZE_LAYERS: ["conv1", "conv2", "dense1", "logits"]}


def test_pattern_selects_layers_of_a_file(make_file_spec: MakeSpec) -> None:
    assert find_layer_names(make_file_spec()) == {QUANTIZE_LAYERS: ["dense1", "logits"]}
    spec = make_file_spec(f"search.per_layer={{{QUANTIZE_LAYERS}: 'dense*'}}")
    assert find_layer_names(spec) == {QUANTIZE_LAYERS: ["dense1"]}


def test_study_without_per_layer_has_no_layers(make_spec: MakeSpec) -> None:
    assert find_layer_names(make_spec("search=prune_quantize")) == {}


@pytest.mark.parametrize(
    ("per_layer", "expected"),
    [
        (f"{{{QUANTIZE_LAYERS}: 'conv*'}}", "'conv*' matches no layer that"),
        (f"{{{QUANTIZE_LAYERS}: 'conv*'}}", "These are: dense1, logits."),
        ("{pipeline.stages.quantize.bits: '*'}", "is not a setting that holds a value for each layer."),
    ],
)
def test_per_layer_that_cannot_be_expanded_is_refused(make_file_spec: MakeSpec, per_layer: str, expected: str) -> None:
    spec = make_file_spec(f"+search.per_layer={per_layer}")
    with pytest.raises(BadInput, match=r"search\.per_layer") as refused:
        find_layer_names_in_process(spec)
    assert expected in str(refused.value)


def test_refusal_in_the_worker_process_reaches_the_user(make_spec: MakeSpec, tmp_path: Path) -> None:
    place = ["dataset=arrays", f"dataset.path={write_arrays(tmp_path)}"]
    spec = make_spec("search=mixed_precision", "model=lenet5", *place, f"search.per_layer={{{QUANTIZE_LAYERS}: 'x*'}}")
    with pytest.raises(BadInput, match=r"search\.per_layer: 'x\*' matches no layer"):
        find_layer_names(spec)
