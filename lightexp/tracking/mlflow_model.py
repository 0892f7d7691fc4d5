"""The files of a run's `.tflite` as an MLflow model, which is loaded and served without lightexp."""

from __future__ import annotations

import math
import platform
import shutil
import time
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from lightexp.core.artifact import TFLITE
from lightexp.core.json_text import encode_json
from lightexp.core.record import Record
from lightexp.core.secrets import hide_secrets
from lightexp.core.task import DEFAULT_TASK

_LOADER = "tflite_pyfunc"
"""The module of `lightexp.backend` that MLflow loads the model with; a copy of it is in the folder."""
_PACKAGES = ("mlflow", "numpy", "ai-edge-litert")
_MAX_EXAMPLE_NUMBERS = 30_000  # about 150 kB of JSON


def find_model(record: Record, folder: Path) -> Path | None:
    """Return the `.tflite` in a run's folder that can be an MLflow model; None if there is none."""
    path = folder / TFLITE
    is_described = record.status == "done" and {"shape", "scale", "offset"} <= record.dataset.keys()
    is_inside = path.is_file() and path.resolve().parent == folder.resolve()  # a stranger may have made a link
    return path if is_described and is_inside else None


def write_model_folder(
    folder: Path, record: Record, model: Path, metrics: dict[str, float], ids: dict[str, str]
) -> None:
    """Write the folder of an MLflow model.

    MLflow's own `save_model` takes a second, in which it runs the model on the input example.

    Args:
        folder: The folder, which exists and is empty.
        record: The record of the model's run.
        model: The `.tflite`.
        metrics: The metrics that describe the model, by name.
        ids: MLflow's `run_id` and `model_id`.
    """
    (folder / "data").mkdir()
    (folder / "code").mkdir()
    shutil.copyfile(model, folder / "data" / TFLITE)
    facts = _describe_inputs(record)
    (folder / "data" / "model.json").write_text(encode_json(facts, indent=1), encoding="utf-8")
    loader = files("lightexp") / "backend" / f"{_LOADER}.py"
    (folder / "code" / f"{_LOADER}.py").write_text(loader.read_text(encoding="utf-8"), encoding="utf-8")
    requirements = [f"{name}=={version(name)}" for name in _PACKAGES]
    (folder / "requirements.txt").write_text("\n".join(requirements) + "\n", encoding="utf-8")
    python = platform.python_version()
    conda: list[Any] = [f"python={python}", "pip", {"pip": requirements}]
    _write_yaml(folder / "conda.yaml", {"name": "mlflow-env", "channels": ["conda-forge"], "dependencies": conda})
    _write_yaml(folder / "python_env.yaml", {"python": python, "dependencies": ["-r requirements.txt"]})
    description = _describe_model(record, facts, metrics, python) | ids
    if 0 < math.prod(facts["shape"]) <= _MAX_EXAMPLE_NUMBERS:
        description["saved_input_example_info"] = _write_example(folder, facts["shape"])
    _write_yaml(folder / "MLmodel", description)


def _describe_inputs(record: Record) -> dict[str, Any]:
    """Return what the loader has to know; see `lightexp.backend.tflite_pyfunc`."""
    facts = {name: record.dataset[name] for name in ("shape", "scale", "offset")}
    model = record.config.get("model") or {}
    facts |= {"layout": model.get("layout", "auto"), "labels": record.dataset.get("labels") or []}
    return facts | {name: record.dataset[name] for name in ("targets",) if name in record.dataset}


def _describe_model(record: Record, facts: dict[str, Any], metrics: dict[str, float], python: str) -> dict[str, Any]:
    """Return the content of `MLmodel`, but for MLflow's ids and the input example."""
    inputs = {"dtype": "float32", "shape": [-1, *facts["shape"]]}
    outputs = {"dtype": "float32", "shape": [-1, len(facts["labels"]) or -1]}
    signature: dict[str, Any] = {
        name: encode_json([{"type": "tensor", "tensor-spec": spec}])
        for name, spec in (("inputs", inputs), ("outputs", outputs))
    }
    task = record.config.get("task")
    if (task["_target_"] if task else DEFAULT_TASK) == DEFAULT_TASK:
        parameter = {"name": "labels", "type": "boolean", "default": False, "shape": None}
        signature["params"] = encode_json([parameter])
    loader = {"loader_module": _LOADER, "data": "data", "code": "code", "python_version": python}
    environment = {"conda": "conda.yaml", "virtualenv": "python_env.yaml"}
    provenance = {"run": record.id, "name": record.name, "command": hide_secrets(record.command)}
    return {
        "flavors": {"python_function": {**loader, "env": environment, "streamable": False}},
        "signature": signature,
        "metadata": {"labels": facts["labels"], "metrics": metrics, "lightexp": provenance},
        "mlflow_version": version("mlflow"),
        "utc_time_created": time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(record.ended)),
    }


def _write_example(folder: Path, shape: list[int]) -> dict[str, str]:
    """Write an example of zeros, so that no example of the user's data leaves the machine; return its entry."""
    example: Any = 0.0
    for size in reversed([1, *shape]):
        example = [example] * size
    files_by_role = {"artifact_path": "input_example.json", "serving_input_path": "serving_input_example.json"}
    (folder / files_by_role["artifact_path"]).write_text(encode_json(example), encoding="utf-8")
    (folder / files_by_role["serving_input_path"]).write_text(encode_json({"inputs": example}), encoding="utf-8")
    return {"type": "ndarray", **files_by_role}


def _write_yaml(path: Path, content: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
