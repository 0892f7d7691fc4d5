"""The estimates of a run's operators, in its table and in `npu.md`."""

from __future__ import annotations

from pathlib import Path

from lightexp.core.columns import ESTIMATE_NOTE
from lightexp.core.table import render_text
from lightexp.report.npu_layers import build_layer_table, write
from tests.tiny_runs import TinyRuns

METRICS = {
    f"npu/{target}/layer/{layer}/{key}": float(value)
    for target, layers in {
        "u55": {"00_conv": (30, 30, 2, 9), "02_dense": (90, 5, 3, 90)},
        "u85": {"00_a": (0, 0, 0, 0)},
    }.items()
    for layer, values in layers.items()
    for key, value in zip(("cycles", "npu_cycles", "sram_cycles", "flash_cycles"), values, strict=True)
}


def test_layer_table_says_what_operators_wait_for() -> None:
    lines = [line.split() for line in render_text(build_layer_table(METRICS, "u55")).splitlines()]
    assert ["00_conv", "30", "25.0%", "30", "2", "9", "computing"] in lines
    assert ["02_dense", "90", "75.0%", "5", "3", "90", "flash", "or", "DRAM"] in lines
    assert len(build_layer_table(METRICS, "u85").rows) == 1


def test_run_shows_estimates_as_such(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    scheme = ("pipeline.stages.quantize.scheme=int8", "pipeline.stages.quantize.io=integer")
    measures = ("measure=default", "~measure.latency", "~measure.micro", "deploy=[ethos_u55_128]")
    record = tiny_runs.run("pipeline=quantize", "model=article_mlp", *scheme, *measures)
    folder = tiny_runs.get_file(record).parent
    assert record.environment["libraries"]["ethos-u-vela"].startswith("5.")
    assert "no operator on the NPU" in record.stages[0].notes["npu/ethos_u55_128/cycles"]  # the float control
    for name in ("table.md", record.files["npu"]):
        text = (folder / name).read_text(encoding="utf-8")
        assert "(est.)" in text.partition(ESTIMATE_NOTE)[0] and ESTIMATE_NOTE in text
    assert "| flash or DRAM |" in (folder / "npu.md").read_text(encoding="utf-8")
    record.stages[-1].metrics.clear()
    assert write(record, tmp_path) == {} and not list(tmp_path.iterdir())
