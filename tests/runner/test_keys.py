"""Keys of stages: they change with everything that decides a result, and with nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lightexp.runner.compose import compose_settings
from lightexp.runner.plan import Node
from lightexp.runner.progress import SilentReporter
from lightexp.runner.run import Runner

ALL_KEYS = {"train", "prune", "quantize", "calibration"}
PRUNE, QUANTIZE = "pipeline.stages.prune", "pipeline.stages.quantize"


@pytest.fixture(scope="module")
def runner() -> Runner:
    return Runner(SilentReporter())


def plan_nodes(runner: Runner, *overrides: str) -> dict[str, Node]:
    return {node.name: node for node in runner.plan(compose_settings(list(overrides)))[0].nodes}


def compute_keys(runner: Runner, *overrides: str) -> dict[str, str]:
    """Return the keys of the stages and of the calibration by name."""
    nodes = plan_nodes(runner, *overrides)
    calibration = nodes["quantize"].inputs["calibration"].key if "quantize" in nodes else ""
    return {name: node.key for name, node in nodes.items()} | {"calibration": calibration}


@pytest.mark.parametrize(
    ("overrides", "changed"),
    [
        ([f"{QUANTIZE}.scheme=int16x8"], {"quantize"}),
        ([f"{QUANTIZE}.calibration_samples=100"], {"quantize", "calibration"}),
        ([f"{PRUNE}.sparsity=0.5"], ALL_KEYS - {"train"}),
        ([f"+{PRUNE}.layers={{conv1: 0.5}}"], ALL_KEYS - {"train"}),
        (["pipeline.stages.train.epochs=3"], ALL_KEYS),
        (["pipeline.stages.train.learning_rate=0.002"], ALL_KEYS),
        (["model.width=0.5"], ALL_KEYS),
        (["seed=1"], ALL_KEYS),
        (["dataset.split_seed=1"], ALL_KEYS),
        ([f"{PRUNE}.from_scratch=true"], ALL_KEYS - {"train"}),
        (["~stage@pipeline.stages.prune"], {"quantize", "calibration"}),
        # Settings that change no byte of any result:
        (["runtime.threads=1"], set()),
        (["paths.outputs=elsewhere"], set()),
        (["tracking=none", "measure=quick"], set()),
        (["pipeline.waive=[sparsity]"], set()),
        (["pipeline.order=[train,nothing,prune,quantize]"], set()),
        # Equal numbers in another notation:
        (["pipeline.stages.train.learning_rate=1e-3", f"{PRUNE}.initial_sparsity=0", "model.width=1"], set()),
    ],
)
def test_key_changes_with_the_result(runner: Runner, overrides: list[str], changed: set[str]) -> None:
    before, after = compute_keys(runner), compute_keys(runner, *overrides)
    assert {name for name in after if after[name] != before[name]} == changed


def test_key_of_pruning_from_scratch(runner: Runner) -> None:
    longer = "pipeline.stages.train.epochs=3"
    scratch = f"{PRUNE}.from_scratch=true"
    assert compute_keys(runner, scratch)["prune"] == compute_keys(runner, scratch, longer)["prune"]
    assert compute_keys(runner, scratch)["train"] != compute_keys(runner, scratch, longer)["train"]
    teacher = f"{PRUNE}.objective.teacher"
    soft = [scratch, "objective@pipeline.stages.prune.objective=distill", f"{teacher}=control"]
    assert (
        compute_keys(runner, *soft)["prune"] != compute_keys(runner, *soft, longer)["prune"]
    )  # the training of the teacher differs


def make_flatbuffer(description: str) -> bytes:
    """Return a .tflite file for digits with one dense layer of zeros."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model, graph, dense, code, weights = (
        getattr(schema, f"{name}T")() for name in ("Model", "SubGraph", "Operator", "OperatorCode", "Buffer")
    )
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.FULLY_CONNECTED
    weights.data = np.zeros(640, np.float32).view(np.uint8)
    model.version, model.description, model.subgraphs = 3, description, [graph]
    model.buffers, model.operatorCodes = [schema.BufferT(), weights], [code]
    dense.inputs, dense.outputs = [0, 1], [2]
    dense.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
    dense.builtinOptions = schema.FullyConnectedOptionsT()
    graph.tensors, graph.inputs, graph.outputs, graph.operators = [], [0], [2], [dense]
    for name, shape, buffer in (("image", [1, 8, 8, 1], 0), ("kernel", [10, 64], 1), ("logits", [1, 10], 0)):
        tensor = schema.TensorT()
        tensor.shape, tensor.type, tensor.buffer, tensor.name = shape, schema.TensorType.FLOAT32, buffer, name
        graph.tensors.append(tensor)
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def test_key_of_a_student_covers_its_teacher(runner: Runner, tmp_path: Path) -> None:
    def compute_student_key(*overrides: str) -> str:
        return compute_keys(runner, "pipeline=distill", *overrides)["distill"]

    teacher, longer = "pipeline.stages.distill.objective.teacher", "pipeline.stages.train.epochs=3"
    for name, description in {"a": "one", "b": "two", "c": "one"}.items():
        (tmp_path / f"{name}.tflite").write_bytes(make_flatbuffer(description))
    a, b, c = (f"{teacher}={tmp_path / name}.tflite" for name in "abc")
    lenet = f'{teacher}=["model=lenet5","pipeline=control"]'
    assert compute_student_key() == compute_student_key(f"{teacher}=control") != compute_student_key(longer)
    assert len({compute_student_key(), compute_student_key(a), compute_student_key(b), compute_student_key(lenet)}) == 4
    assert (
        compute_student_key(a) == compute_student_key(c) == compute_student_key(a, longer)
    )  # the key depends on the bytes, not on the path or an unused training
    assert compute_student_key(lenet) == compute_student_key(lenet, longer)
    assert compute_student_key(lenet) != compute_student_key(lenet.replace('"]', '","pipeline.stages.train.epochs=3"]'))


def test_key_of_a_teacher_equal_to_the_control(runner: Runner) -> None:
    same = 'pipeline.stages.distill.objective.teacher=["pipeline=control"]'
    nodes = plan_nodes(runner, "pipeline=distill", same)
    assert nodes["distill"].inputs["teacher"].key == nodes["train"].key


def test_key_excludes_the_test_split(runner: Runner, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    parts = {f"x_{s}": rng.integers(0, 256, (40, 4, 4, 1), np.uint8) for s in ("train", "val", "test")}
    parts |= {f"y_{s}": np.arange(40) % 2 for s in ("train", "val", "test")}

    def compute_train_key(**changed: np.ndarray) -> str:
        path = tmp_path / f"{'-'.join(changed) or 'unchanged'}.npz"
        np.savez(path, **{**parts, **changed})
        return compute_keys(runner, "pipeline=control", "dataset=arrays", f"dataset.path={path}")["train"]

    unchanged = compute_train_key()
    assert compute_train_key(x_test=parts["x_test"] + 1) == unchanged
    assert compute_train_key(y_test=1 - parts["y_test"]) == unchanged
    assert compute_train_key(x_train=parts["x_train"] + 1) != unchanged
    assert compute_train_key(y_train=1 - parts["y_train"]) != unchanged
    assert compute_train_key(x_val=parts["x_val"] + 1) != unchanged  # early stopping uses it


PRINT_KEYS = """
import sys
from lightexp.runner.compose import compose_settings
from lightexp.runner.run import Runner
from lightexp.runner.progress import SilentReporter
print(*(node.key for node in Runner(SilentReporter()).plan(compose_settings([]))[0].nodes))
assert not {"tensorflow", "mlflow", "ai_edge_litert"} & set(sys.modules)
"""


@pytest.mark.slow
def test_key_covers_library_versions(runner: Runner, tmp_path: Path) -> None:
    def print_keys(*folders: Path) -> list[str]:
        code = f"import sys; sys.path[:0] = {[str(f) for f in folders]}\n{PRINT_KEYS}"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
        return done.stdout.split()

    metadata = tmp_path / "newer" / "tf_keras-99.0.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text("Metadata-Version: 2.1\nName: tf-keras\nVersion: 99.0\n")
    expected = [node.key for node in plan_nodes(runner).values()]
    assert print_keys() == expected
    assert not set(print_keys(metadata.parents[1])) & set(expected)
