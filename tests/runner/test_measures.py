"""All measurements in complete runs, of lightexp's files and of foreign ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lightexp.backend import micro
from lightexp.cli.terminal import Terminal
from lightexp.core.record import read_record
from tests.tiny_runs import TinyRuns

pytestmark = pytest.mark.skipif(
    micro.find_unavailable_reason() is not None, reason=micro.find_unavailable_reason() or ""
)
ALL_MEASUREMENTS = ["measure=default", "measure.latency.seconds=0.1", "measure.latency.warmup=0"]
BOARD = "deploy.targets.small={flash: 8, ram: 4, flash_taken: 1, ram_taken: 1}"
EXPECTED = {
    *("accuracy/val", "accuracy/test", "size/file_bytes", "model/bits_per_weight", "model/entropy_bytes"),
    *("compute/effective_macs", "model/nonzeros", "fidelity/agreement", "fidelity/kl_test", "calibration/ece"),
    *("accuracy/class/0", "accuracy/class_test/3", "micro/runs", "fits/nano33", "fits/small", "latency/p50_us"),
}


def test_notes_explain_missing_metrics(tiny_runs: TinyRuns, capsys: pytest.CaptureFixture[str]) -> None:
    overrides = [
        *ALL_MEASUREMENTS,
        f"+{BOARD}",
        "model=article_mlp",
        "pipeline=quantize",
        "pipeline.stages.quantize.scheme=float16",
    ]
    record = tiny_runs.run(*overrides)
    control, quantized = record.stages
    assert {metric.name for metric in quantized.metrics} >= EXPECTED
    assert (control.metric("micro/runs"), quantized.metric("micro/runs")) == (1, 0)
    assert control.metric("micro/arena_bytes") and quantized.metric("micro/arena_bytes") is None
    assert (control.metric("fits/nano33"), control.metric("fits/small")) == (1, 0)
    assert "KiB of flash where 7 are free" in control.notes["fits/small"]
    assert "DEQUANTIZE" in record.notes["micro/runs"]
    assert (control.metric("fidelity/agreement"), control.metric("fidelity/kl")) == (1, 0)
    assert quantized.metric("fidelity/agreement") == pytest.approx(1, abs=0.05)
    stored = read_record(tiny_runs.outputs / "runs" / record.id)
    assert stored == record
    assert stored.environment["latency_threads"] == 1 and stored.environment["host"]

    capsys.readouterr()
    terminal = Terminal()
    terminal.record(record, tiny_runs.outputs)
    output = capsys.readouterr().out
    assert f"micro/runs: {record.notes['micro/runs']}" in output
    [line] = [line for line in output.splitlines() if "it does not run on TFLite Micro" in line]
    assert line.startswith("fits/nano33, fits/pico, ")
    assert "RAM bytes" in output


def test_foreign_float_file_is_measured(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    control_run = tiny_runs.run("pipeline=control", "model=article_mlp")
    foreign_file = tmp_path / "foreign.tflite"
    foreign_file.write_bytes(tiny_runs.get_file(control_run).read_bytes())
    overrides = [
        "model=from_file",
        f"model.path={foreign_file}",
        "pipeline=quantize",
        "pipeline.stages.quantize.scheme=int8",
    ]
    record = tiny_runs.run(*ALL_MEASUREMENTS, *overrides)
    control, quantized = record.stages
    for stage in record.stages:
        assert {metric.name for metric in stage.metrics} >= EXPECTED - {"fits/small"}
        assert stage.metric("micro/runs") == 1
        assert not stage.notes.keys() - {"accuracy/val"}  # which a net of one epoch may leave at chance
    assert control.metric("accuracy/val") == control_run.stages[0].metric("accuracy/val")
    assert quantized.metric("model/bits_per_weight") < 12
    assert json.loads(json.dumps(record.metrics)) == record.metrics


def test_misspelt_board_is_refused(tiny_runs: TinyRuns) -> None:
    from lightexp.core.errors import BadInput

    with pytest.raises(BadInput, match=r"measure\.micro\.boards\.nano33\.rom: Extra inputs are not permitted"):
        tiny_runs.compose_settings("measure=default", "+deploy.targets.nano33.rom=3")
