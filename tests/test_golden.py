"""Compare the results of every shipped pipeline and model with the golden results in `golden.json`.

If a change of the code is intended to change a result, bump `version` of the stage, objective or model that changed
(or `TRAINING_VERSION` in `lightexp/core/training.py` for the training loop), so that no store serves the old result.
Then write the golden results again:

    python tests/test_golden.py

If it is not intended, the change is a bug. The tolerance allows for the rounding of another processor.
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
TOLERANCE = 1e-3  # relative; for the rounding of another processor after four steps of training
EXCLUDED = ["from_file"]  # its weights are those of a file


def list_choices(group: str) -> list[str]:
    """Return the names of a group's files."""
    return sorted(path.stem for path in (find_config_dir() / group).glob("*.yaml") if path.stem not in EXCLUDED)


def compute_norm(tensor: Tensor) -> float:
    """Return the L2 norm of a weight's values, dequantised if it is quantised."""
    values = np.asarray(tensor.data, np.float64)
    if tensor.scales:
        # Scales belong to the axis whose length is the number of scales, per channel or not.
        axis = next((i for i, n in enumerate(values.shape) if n == len(tensor.scales)), 0)
        shape = [len(tensor.scales) if i == axis else 1 for i in range(values.ndim)]
        values = (values - np.reshape(tensor.zero_points, shape)) * np.reshape(tensor.scales, shape)
    return float(np.linalg.norm(values))


def run_pipeline(runs: TinyRuns, pipeline: str) -> dict[str, Any]:
    """Run a pipeline; return the golden values of its result, and the versions of its parts."""
    settings = runs.compose_settings(f"pipeline={pipeline}")
    record = runs.run(f"pipeline={pipeline}")
    parts: dict[str, Any] = {"model": settings.model, **settings.stages}
    for name, stage in settings.stages.items():
        if hasattr(stage, "objective"):
            parts[f"{name}.objective"] = stage.objective
        parts |= {f"{name}.{role}": part for role, part in stage.inputs().items() if isinstance(part, Stage)}
    return {
        "versions": {"training loop": TRAINING_VERSION} | {name: part.version for name, part in parts.items()},
        "bytes": runs.get_file(record).stat().st_size,
        "zeros": {s.name: zeros for s in record.stages if (zeros := s.facts.get("zeros"))},
        "weights": {tensor.name: float(f"{compute_norm(tensor):.6g}") for tensor in runs.read_graph(record).weights},
    }


def build_architecture(name: str) -> dict[str, Any]:
    """Return the golden values of a model: its version, its layers and the norms of their initial weights."""
    from lightexp.backend import session

    session.reset_graph(0)
    model = compose_settings([f"model={name}"]).model
    layers = model.build((40, 1) if name == "cnn_1d" else (28, 28, 1), 10).layers
    norms = {f"{layer.name} {type(layer).__name__} {layer.count_params()}": layer.get_weights() for layer in layers}
    weights = {name: sum(float(np.linalg.norm(w.astype(np.float64))) for w in ws) for name, ws in norms.items()}
    return {"version": model.version, "weights": {name: float(f"{n:.6g}") for name, n in weights.items()}}


def describe_difference(old: dict[str, Any], new: dict[str, Any]) -> str | None:
    """Return the first difference between two results as text; None if there is none."""
    for name in ("bytes", "zeros"):
        if new.get(name) != old.get(name):
            return f"{name} was {old[name]}, is {new[name]}"
    if list(new["weights"]) != list(old["weights"]):
        return f"the weights were {list(old['weights'])}, are {list(new['weights'])}"
    for name, value in new["weights"].items():
        if value != pytest.approx(old["weights"][name], rel=TOLERANCE):
            return f"the norm of '{name}' was {old['weights'][name]}, is {value}"
    return None


def test_every_pipeline_and_model_has_golden_results() -> None:
    golden = json.loads(FILE.read_text())
    assert sorted(golden["pipelines"]) == list_choices("pipeline"), "run: python tests/test_golden.py"
    assert sorted(golden["models"]) == list_choices("model"), "run: python tests/test_golden.py"


@pytest.mark.parametrize("name", list_choices("pipeline"))
def test_pipeline_runs_as_planned(name: str, tiny_runs: TinyRuns) -> None:
    plan, _ = tiny_runs.plan(f"pipeline={name}")
    record = tiny_runs.run(f"pipeline={name}")
    assert [(s.name, s.key) for s in record.stages] == [(n.name, n.key) for n in plan.nodes]
    assert record.control == plan.control.name == "train"
    assert set(record.metrics) >= {"accuracy/val", "accuracy/test", "size/file_bytes", "model/sparsity"}
    assert tiny_runs.get_file(record).stat().st_size == record.metrics["size/file_bytes"]
    stages = tiny_runs.compose_settings(f"pipeline={name}").stages
    assert list(stages) == OmegaConf.to_container(compose_config([f"pipeline={name}"]).pipeline.order)
    for stage, settings in stages.items():
        # In shipped pipelines, the name of a stage is that of its module.
        assert type(settings).__module__ == f"lightexp.stages.{stage}"


@pytest.mark.parametrize("pipeline", list_choices("pipeline"))
def test_pipeline_changes_only_with_a_version(pipeline: str, tiny_runs: TinyRuns) -> None:
    golden = json.loads(FILE.read_text())
    old, new = golden["pipelines"][pipeline], run_pipeline(tiny_runs, pipeline)
    change = describe_difference(old, new)
    if old["versions"] != new["versions"]:
        pytest.fail(
            f"versions were {old['versions']}, are {new['versions']}. If the result was intended to change "
            f"({change or 'it has not'}), write the new results with python tests/test_golden.py"
        )
    libraries = {n: v for n, v in read_library_versions().items() if golden["libraries"][n] != v}
    assert change is None, (
        f"pipeline={pipeline}: {change}, though no version has changed (libraries that have: {libraries or 'none'}). "
        "If it was intended, bump the version of the stage, objective, model or training loop that changed and run "
        "python tests/test_golden.py; otherwise it is a bug."
    )


@pytest.mark.usefixtures("tensorflow")
@pytest.mark.parametrize("name", list_choices("model"))
def test_model_changes_only_with_its_version(name: str) -> None:
    old, new = json.loads(FILE.read_text())["models"][name], build_architecture(name)
    change = describe_difference(old, new)
    assert (change, new["version"]) == (None, old["version"]), (
        f"model={name}: {change}. If it was intended, bump the model's version and run "
        "python tests/test_golden.py; otherwise it is a bug."
    )


def test_describe_difference_detects_every_change() -> None:
    old = {"bytes": 5, "zeros": {"prune": {"conv1": 3}}, "weights": {"a": 1.0, "b": 2.0}}
    assert describe_difference(old, {**old, "weights": {"a": 1.0005, "b": 2.0}}) is None
    changes = [{"bytes": 6}, {"zeros": {"prune": {"conv1": 4}}}, {"weights": {"a": 1.0}}]
    for change in [*changes, {"weights": {"a": 1.01, "b": 2.0}}, {"weights": {"a": float("nan"), "b": 2.0}}]:
        assert describe_difference(old, old | change)


def main() -> None:
    """Write the golden results again."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    with TemporaryDirectory() as folder:
        runs = TinyRuns(Path(folder))
        golden = {
            "libraries": read_library_versions(),
            "pipelines": {p: run_pipeline(runs, p) for p in list_choices("pipeline")},
        }
    golden["models"] = {name: build_architecture(name) for name in list_choices("model")}
    FILE.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
