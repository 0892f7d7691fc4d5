"""Tests of the comparison of rebuilt models with Keras 3."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightexp.backend import foreign_keras, keras3_comparison, sandbox
from lightexp.core.errors import BadInput

pytestmark = pytest.mark.usefixtures("warm_workers")
SHAPE = (8, 8, 3)
INPUTS = np.random.default_rng(0).random((16, *SHAPE), np.float32)


@pytest.fixture(scope="module")
def path(tensorflow: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file that Keras 3 has saved."""
    with zipfile.ZipFile(Path(__file__).with_name("keras_3_files.zip")) as archive:
        return Path(archive.extract("nested.keras", tmp_path_factory.mktemp("keras3")))


@pytest.fixture(scope="module")
def foreign(path: Path) -> foreign_keras.ForeignModel:
    """Return the file's model as lightexp takes it, without the softmax."""
    loaded = foreign_keras.load_file(path, trust=False, shape=SHAPE)
    model, had_softmax = foreign_keras.remove_activation(loaded.model, "softmax")
    assert had_softmax
    return replace(loaded, model=model, removed="softmax")


def test_compare_outputs_with_keras_3_in_another_process(path: Path, foreign: foreign_keras.ForeignModel) -> None:
    note = keras3_comparison.compare_outputs(path, foreign, INPUTS, None)
    assert note.startswith("outputs of 16 examples differ from Keras 3's by at most ")
    assert float(note.rpartition(" ")[2]) < 1e-6


def test_compare_outputs_refuses_a_difference(
    path: Path, foreign: foreign_keras.ForeignModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = np.asarray(foreign.model(INPUTS, training=False))  # logits are no probabilities
    compute = sandbox.run_sandboxed

    def run(function: str, file: Path, array: Any, **settings: Any) -> Any:
        return expected if function == "compute_keras_outputs" else compute(function, file, array, **settings)

    monkeypatch.setattr(sandbox, "run_sandboxed", run)
    with pytest.raises(BadInput, match=r"nested\.keras cannot be rebuilt exactly: outputs differ from Keras 3's by"):
        keras3_comparison.compare_outputs(path, foreign, INPUTS, None)
    note = keras3_comparison.compare_outputs(path, replace(foreign, removed=None), INPUTS, None)
    assert note.endswith("at most 0")


def test_compare_outputs_says_that_keras_3_cannot_load_the_file(
    path: Path, foreign: foreign_keras.ForeignModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = sandbox.run_sandboxed

    def run(function: str, file: Path, array: Any, **settings: Any) -> Any:
        if function == "compute_keras_outputs":
            raise BadInput(f"{file} cannot be used: Unknown layer")
        return compute(function, file, array, **settings)

    monkeypatch.setattr(sandbox, "run_sandboxed", run)
    note = keras3_comparison.compare_outputs(path, foreign, INPUTS, None)
    assert note == "not compared with Keras 3, which cannot load the file itself (nested.keras cannot be used: " + (
        "Unknown layer)"
    )
