"""Tests of entropy coding in real runs: the encoded file, its metrics, and the order of stages."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightexp.core.errors import BadInput
from lightexp.core.protocols import ENCODED, Invariant, MeasurementContext
from lightexp.core.record import Record
from lightexp.export.lxe import decode
from lightexp.metrics.size import Size
from lightexp.runner.compose import compose_settings
from lightexp.runner.order import check_order
from lightexp.stages.encode import Encode
from tests.metrics import tiny_models
from tests.tiny_runs import TinyRuns


def run_encoded(runs: TinyRuns, *overrides: str, order: str) -> Record:
    return runs.run(*overrides, "+stage@pipeline.stages.encode=encode", f"pipeline.order=[{order},encode]")


@pytest.mark.parametrize(
    ("pipeline", "order"),
    [("control", "train"), ("prune", "train,prune"), ("prune_int8", "train,prune,quantize")],
)
def test_run_folder_holds_file_and_metrics(pipeline: str, order: str, tiny_runs: TinyRuns) -> None:
    record = run_encoded(tiny_runs, f"pipeline={pipeline}", order=order)
    file = tiny_runs.get_file(record).with_name(record.files["encoded"])
    assert file.name == ENCODED
    assert decode(file.read_bytes()) == tiny_runs.get_file(record).read_bytes()
    *before, last = record.stages
    assert last.metric("size/encoded_bytes") == file.stat().st_size < last.metric("size/gzip_bytes")
    control = before[0].metric("size/file_bytes")
    assert last.metric("size/encoded_ratio") == pytest.approx(control / file.stat().st_size)
    assert all(stage.metric("size/encoded_bytes") is None for stage in before)
    for name in ("accuracy/val", "size/file_bytes", "model/sparsity"):
        assert last.metric(name) == before[-1].metric(name)
    assert "Encoded bytes" in tiny_runs.get_file(record).with_name(record.files["table"]).read_text()


def test_foreign_file_is_encoded(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    control = tiny_runs.get_file(tiny_runs.run("pipeline=control"))
    path = tmp_path / "theirs.tflite"
    path.write_bytes(control.read_bytes() + b"appended data")
    record = run_encoded(tiny_runs, "model=from_file", f"model.path={path}", "pipeline=control", order="train")
    assert [stage.name for stage in record.stages] == ["file", "encode"]
    file = tiny_runs.get_file(record)
    assert decode(file.with_name(ENCODED).read_bytes()) == path.read_bytes() == file.read_bytes()
    assert record.metrics["size/encoded_ratio"] > 1


def test_encode_is_last_and_preserves_everything() -> None:
    overrides = ["pipeline=prune", "+stage@pipeline.stages.encode=encode"]
    check_order(compose_settings([*overrides, "pipeline.order=[train,prune,encode]"]))
    with pytest.raises(BadInput, match=r"'prune' cannot follow 'encode'.*pipeline.order=\[train,prune,encode\]"):
        check_order(compose_settings([*overrides, "pipeline.order=[train,encode,prune]"]))
    assert all(Encode().preserves(Invariant(kind)) for kind in ("sparsity", "n_m", "blocks", "codebook", "dtype"))


def test_encoded_size_is_relative_to_control(tmp_path: Path) -> None:
    control, file, packed = (tmp_path / name for name in ("control.tflite", "model.tflite", "model.lxe"))
    control.write_bytes(bytes(1000))
    file.write_bytes(bytes(500))
    packed.write_bytes(bytes(40))
    context = MeasurementContext(file, control, tiny_models.make_data("conv"), 1, encoded=packed)
    values = {metric.name: metric.value for metric in Size().measure(context)}
    assert (values["size/encoded_bytes"], values["size/encoded_ratio"], values["size/ratio"]) == (40, 25, 2)
