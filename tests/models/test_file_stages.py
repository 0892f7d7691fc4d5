"""Tests of the stages that store a model from a file."""

from __future__ import annotations

from pathlib import Path

from lightexp.core.fingerprint import hash_file
from lightexp.core.protocols import Artifact, Context
from lightexp.models.file_stages import ModelFile
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
