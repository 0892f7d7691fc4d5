"""Does a shipped pipeline run, and still give the result that it gave, or has its version been bumped?

Where a change of the code is meant to change a result: bump `version` of the stage, objective or model that changed
(or `VERSION` in `lightexp/core/training.py` for the training loop), so that no store serves the old result, and then
write the figures anew with the one command

    python tests/test_golden.py

Where it is not meant to, the change is a bug. The figures bear another processor's rounding, not another method.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from lightexp.core.fingerprint import read_library_versions
from lightexp.core.protocols import Stage
from lightexp.core.tflite_graph import Tensor
from lightexp.core.training import TRAINING_VERSION
from lightexp.runner.compose import compose_config, compose_settings
from lightexp.runner.config_dir import find_config_dir
from tests.tiny_runs import TinyRuns

FILE = Path(__file__).with_name("golden.json")
ROUNDING = 1e-3  # of another processor, after four steps of training


OF_THEIR_OWN = ["from_file"]  # a file is what it is


def shipped(group: str) -> list[str]:
    """The names of a group's files."""
    return sorted(path.stem for path in (find_config_dir() / group).glob("*.yaml") if path.stem not in OF_THEIR_OWN)


def norm(tensor: Tensor) -> float:
    """L2 norm of a weight's real values: the scales of quantised ones multiplied out."""
    values = np.asarray(tensor.data, np.float64)
    if tensor.scales:
        # Per channel or not, a scale belongs to an index of the one axis that is as long as there are scales.
        axis = next((i for i, n in enumerate(values.shape) if n == len(tensor.scales)), 0)
        shape = [len(tensor.scales) if i == axis else 1 for i in range(values.ndim)]
        values = (values - np.reshape(tensor.zero_points, shape)) * np.reshape(tensor.scales, shape)
    return float(np.linalg.norm(values))


def figures(runs: TinyRuns, pipeline: str) -> dict[str, Any]:
    """What is kept of a pipeline's result, and the versions of what made it."""
    settings = runs.compose_settings(f"pipeline={pipeline}")
    record = runs.run(f"pipeline={pipeline}")
    parts: dict[str, Any] = {"model": settings.model, **settings.stages}
    for name, stage in settings.stages.items():
        parts |= {f"{name}.objective": stage.objective} if hasattr(stage, "objective") else {}
        parts |= {f"{name}.{role}": part for role, part in stage.inputs().items() if isinstance(part, Stage)}
    return {
        "versions": {"training loop": TRAINING_VERSION} | {name: part.version for name, part in parts.items()},
        "bytes": runs.get_file(record).stat().st_size,
        "zeros": {s.name: zeros for s in record.stages if (zeros := s.facts.get("zeros"))},
        "weights": {tensor.name: float(f"{norm(tensor):.6g}") for tensor in runs.read_graph(record).weights},
    }


def architecture(name: str) -> dict[str, Any]:
    """What is kept of a model: its layers and the size of its initial weights."""
    from lightexp.backend import session

    session.reset_graph(0)
    model = compose_settings([f"model={name}"]).model
    layers = model.build((40, 1) if name == "cnn_1d" else (28, 28, 1), 10).layers
    norms = {f"{layer.name} {type(layer).__name__} {layer.count_params()}": layer.get_weights() for layer in layers}
    weights = {name: sum(float(np.linalg.norm(w.astype(np.float64))) for w in ws) for name, ws in norms.items()}
    return {"version": model.version, "weights": {name: float(f"{n:.6g}") for name, n in weights.items()}}


def difference(old: dict[str, Any], new: dict[str, Any]) -> str | None:
    """What of a result is not as it was, in words, or None."""
    for name in ("bytes", "zeros"):
        if new.get(name) != old.get(name):
            return f"{name} was {old[name]}, is {new[name]}"
    if list(new["weights"]) != list(old["weights"]):
        return f"the weights were {list(old['weights'])}, are {list(new['weights'])}"
    for name, value in new["weights"].items():
        if value != pytest.approx(old["weights"][name], rel=ROUNDING):
            return f"the norm of '{name}' was {old['weights'][name]}, is {value}"
    return None


def test_everything_shipped_has_golden_figures() -> None:
    golden = json.loads(FILE.read_text())
    assert sorted(golden["pipelines"]) == shipped("pipeline"), "run: python tests/test_golden.py"
    assert sorted(golden["models"]) == shipped("model"), "run: python tests/test_golden.py"


@pytest.mark.parametrize("name", shipped("pipeline"))
def test_every_pipeline_runs_to_its_end(name: str, tiny_runs: TinyRuns) -> None:
    planned, _ = tiny_runs.plan(f"pipeline={name}")
    record = tiny_runs.run(f"pipeline={name}")
    assert [(s.name, s.key) for s in record.stages] == [(n.name, n.key) for n in planned.nodes]
    assert record.control == planned.control.name == "train"
    assert set(record.metrics) >= {"accuracy/val", "accuracy/test", "size/file_bytes", "model/sparsity"}
    assert tiny_runs.get_file(record).stat().st_size == record.metrics["size/file_bytes"]
    stages = tiny_runs.compose_settings(f"pipeline={name}").stages
    assert list(stages) == OmegaConf.to_container(compose_config([f"pipeline={name}"]).pipeline.order)
    for stage, settings in stages.items():
        # In shipped pipelines a stage's key is its method's name.
        assert type(settings).__module__ == f"lightexp.stages.{stage}"


@pytest.mark.parametrize("pipeline", shipped("pipeline"))
def test_a_result_changes_with_a_version_only(pipeline: str, tiny_runs: TinyRuns) -> None:
    golden = json.loads(FILE.read_text())
    old, new = golden["pipelines"][pipeline], figures(tiny_runs, pipeline)
    change = difference(old, new)
    if old["versions"] != new["versions"]:
        pytest.fail(
            f"versions were {old['versions']}, are {new['versions']}. That is right if the result was meant to change "
            f"({change or 'it has not'}): write the new figures with python tests/test_golden.py"
        )
    libraries = {n: v for n, v in read_library_versions().items() if golden["libraries"][n] != v}
    assert change is None, (
        f"pipeline={pipeline}: {change}, though no version has changed (libraries that have: {libraries or 'none'}). "
        "If it was meant to, bump the version of the stage, objective, model or training loop that changed and run "
        "python tests/test_golden.py; else it is a bug."
    )


@pytest.mark.usefixtures("tensorflow")
@pytest.mark.parametrize("name", shipped("model"))
def test_a_model_changes_with_its_version_only(name: str) -> None:
    old, new = json.loads(FILE.read_text())["models"][name], architecture(name)
    change = difference(old, new)
    assert (change, new["version"]) == (None, old["version"]), (
        f"model={name}: {change}. If that was meant to be, bump the model's version and run "
        "python tests/test_golden.py; else it is a bug."
    )


def test_each_kind_of_change_is_seen() -> None:
    old = {"bytes": 5, "zeros": {"prune": {"conv1": 3}}, "weights": {"a": 1.0, "b": 2.0}}
    assert difference(old, {**old, "weights": {"a": 1.0005, "b": 2.0}}) is None
    changes = [{"bytes": 6}, {"zeros": {"prune": {"conv1": 4}}}, {"weights": {"a": 1.0}}]
    for change in [*changes, {"weights": {"a": 1.01, "b": 2.0}}, {"weights": {"a": float("nan"), "b": 2.0}}]:
        assert difference(old, old | change)


def main() -> None:
    """Writes the golden figures anew."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    with TemporaryDirectory() as folder:
        runs = TinyRuns(Path(folder))
        golden = {"libraries": read_library_versions(), "pipelines": {p: figures(runs, p) for p in shipped("pipeline")}}
    golden["models"] = {name: architecture(name) for name in shipped("model")}
    FILE.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
