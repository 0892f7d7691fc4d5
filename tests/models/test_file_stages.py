"""Tests of the stages that store a model from a file."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightexp.backend import keras3_comparison
from lightexp.backend.foreign_keras import ForeignModel
from lightexp.core.data import Data, Split
from lightexp.core.fingerprint import hash_file
from lightexp.core.protocols import Artifact, Context
from lightexp.models.file_stages import KerasFile, ModelFile
from lightexp.models.from_file import FromFile
from lightexp.runner.progress import SilentReporter
from tests.tiny_runs import TinyRuns


def test_model_file_copies_the_file(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    plan, data = tiny_runs.plan("pipeline=control")
    source = tiny_runs.get_file(tiny_runs.run("pipeline=control"))
    stage = ModelFile(str(source), hash_file(source))
    assert not stage.needs_parent
    assert not stage.needs_tensorflow
    with SilentReporter().stage("w", 1, 1) as progress:
        assert stage.apply(None, Context(data, plan.nodes[0].model, 0, 1, tmp_path, progress)) == {}
    assert Artifact(stage.produces, tmp_path, {}, "k").tflite.read_bytes() == source.read_bytes()


def test_keras_file_says_what_was_compared_and_left_out(
    tensorflow: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(Path(__file__).parents[1] / "backend" / "keras_3_files.zip") as archive:
        path = archive.extract("nested.keras", tmp_path)
    compared = []

    def compare(file: Path, foreign: ForeignModel, inputs: Any, max_gb: float | None) -> str:
        compared.append((file.name, foreign.removed, inputs.shape))
        return "as good as new"

    monkeypatch.setattr(keras3_comparison, "compare_outputs", compare)
    split = Split(np.zeros((20, 8, 8, 3), np.uint8), np.arange(20, dtype=np.int32) % 3)
    out = tmp_path / "out"
    out.mkdir()
    with SilentReporter().stage("w", 1, 1) as progress:
        context = Context(Data("noise", split, split, split, 3), FromFile(path), 0, 1, out, progress)
        facts = KerasFile().apply(None, context)
    assert facts["note"].startswith("as good as new; left out, as they only augment data: random_flip")
    assert compared == [("nested.keras", "softmax", (16, 8, 8, 3))]
    assert (out / "model.tflite").is_file()
