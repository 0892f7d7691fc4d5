"""Settings and files that are refused because they would silently give a wrong result."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from lightexp.backend.session import import_keras
from lightexp.core.errors import BadInput, RunFailed
from lightexp.core.protocols import Invariant, Layer, Model
from lightexp.models.file_stages import ModelFile
from lightexp.objectives.cross_entropy import CrossEntropy
from lightexp.runner.compose import compose_settings
from lightexp.runner.preview import preview_plan
from lightexp.runner.progress import SilentReporter
from lightexp.runner.run import Runner
from lightexp.stages.prune import Prune
from tests.tiny_runs import TinyRuns

LAYERS = [Layer("conv1", "Conv2D", (3, 3, 1, 4), 36), Layer("norm1", "BatchNormalization", None, 16)]


def make_prune(**values: object) -> Prune:
    return Prune(objective=CrossEntropy(), **values)  # type: ignore[arg-type]


def test_contradicting_patterns_are_refused():
    with pytest.raises(BadInput, match="several sparsities"):
        make_prune(layers={"conv*": 0.5, "conv1": 0.9}).compute_targets(LAYERS)
    assert make_prune(layers={"conv*": 0.9, "conv1": 0.9}).compute_targets(LAYERS) == {"conv1": 0.9}


def test_pattern_of_unpruned_layers_is_refused():
    with pytest.raises(BadInput, match="'norm1' matches no layer that is pruned"):
        make_prune(layers={"norm1": 0.5}).compute_targets(LAYERS)


def test_lower_second_pruning_is_refused():
    second = make_prune(sparsity=0.8)
    assert second.preserves(*make_prune(sparsity=0.8).establishes())
    assert not second.preserves(*make_prune(sparsity=0.5, layers={"conv1": 0.95}).establishes())
    assert not second.preserves(*make_prune(sparsity=0.5, allocation="global").establishes())
    assert make_prune(sparsity=0.8).establishes() == (Invariant("sparsity", 0.8),)


@pytest.mark.parametrize("override", ["dataset=mnist", "seed=3", "runtime.threads=1"])
def test_teacher_overriding_shared_settings_is_refused(override):
    overrides = ["pipeline=distill", f'pipeline.stages.distill.objective.teacher=["{override}","pipeline=control"]']
    with pytest.raises(BadInput, match="has no effect on a teacher"):
        Runner(SilentReporter()).plan(compose_settings(overrides))


def test_too_large_seed_is_refused():
    with pytest.raises(BadInput, match=r"^seed: "):
        compose_settings([f"seed={2**32}"])


def test_changed_model_file_is_refused(tmp_path):
    (tmp_path / "in").mkdir()
    file = tmp_path / "in" / "net.tflite"
    file.write_bytes(b"new")

    class Context:
        out = tmp_path

    with pytest.raises(RunFailed, match="has changed"):
        ModelFile(str(file), "0" * 64).apply(None, Context())  # type: ignore[arg-type]


@dataclass(frozen=True)
class OpenSeries(Model):
    """A recurrent layer that is not told how many steps its sequences have."""

    def build(self, shape: tuple[int, ...], classes: int) -> Any:
        kl = import_keras().layers
        body = [kl.Input((None, None, 1)), kl.Reshape((-1, 8)), kl.LSTM(2, name="lstm"), kl.Dense(classes)]
        return import_keras().Sequential(body)

    def scaled(self, width: float) -> OpenSeries:
        return self


def test_sequences_of_any_length_are_refused_before_training(tiny_runs: TinyRuns) -> None:
    settings = replace(tiny_runs.compose_settings("pipeline=control"), model=OpenSeries())
    plan, data = Runner(SilentReporter()).plan(settings)
    with pytest.raises(BadInput, match="lstm takes sequences of any length"):
        preview_plan(plan, settings, data)


@pytest.mark.parametrize(
    "arguments",
    [
        ["-m", "paths.outputs=taken", "seed=0,1"],
        ["-m", "--cfg", "job"],
        ["tracking=none", "-m", "seed=-1,x"],
    ],
)
def test_command_refuses_in_one_line(arguments, tmp_path):
    (tmp_path / "taken").write_text("a file")
    command = [Path(sys.executable).parent / "lightexp", "run", *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    if "seed=-1,x" not in arguments:
        assert len(done.stderr.splitlines()) == 1
    assert "the traceback is in" not in done.stderr
