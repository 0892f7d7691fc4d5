"""The compiler's estimates against its own command line, and files that it cannot compile."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from lightexp.backend import vela
from lightexp.backend.litert_model import LoadedModel
from lightexp.core.errors import BadInput
from tests.metrics import tiny_models

U55 = ("ethos-u55-128", "Ethos_U55_High_End_Embedded", "Shared_Sram")
U65 = ("ethos-u65-256", "Ethos_U65_High_End", "Dedicated_Sram_384KB")
U85 = ("ethos-u85-256", "Ethos_U85_SYS_Flash_High", "Shared_Sram")


def make_target(accelerator: str, system: str, memory: str) -> vela.CompilerTarget:
    """Return a target of Vela's own configuration file."""
    return vela.make_target(accelerator, system, memory, vela.read_default_config(), "vela.ini")


@pytest.mark.parametrize("names", [U55, U65, U85], ids=["u55", "u65", "u85"])
def test_estimates_are_those_of_the_command_line(
    names: tuple[str, str, str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from ethosu.vela import vela as command

    path = tmp_path / "m.tflite"
    path.write_bytes(tiny_models.make_tflite("conv", "int8"))
    options = ["--accelerator-config", "--system-config", "--memory-mode"]
    pairs = [argument for pair in zip(options, names, strict=True) for argument in pair]
    command.main([str(path), *pairs, "--config=Arm/vela.ini", f"--output-dir={tmp_path}"])
    [summary] = csv.DictReader((tmp_path / f"m_summary_{names[1]}.csv").read_text().splitlines())
    expected = {name: float(value) for name, value in summary.items() if name.startswith(("cycles", "total", "inf"))}
    kib = {name.partition("_memory")[0]: float(value) for name, value in summary.items() if name.endswith("_used")}
    estimate = vela.estimate(path, make_target(*names))
    metrics = estimate.metrics
    assert metrics["cycles"] == expected["cycles_total"] > 0
    assert metrics["npu_cycles"] == expected["cycles_npu"]
    assert metrics["sram_cycles"] == expected["cycles_sram_access"]
    assert metrics["dram_cycles"] == expected["cycles_dram_access"]
    assert metrics["flash_cycles"] == expected["cycles_off_chip_flash_access"] + expected["cycles_on_chip_flash_access"]
    assert metrics["us"] == pytest.approx(expected["inference_time"] * 1e6)
    assert metrics["weight_bytes"] == expected["total_npu_encoded_weights"]
    assert metrics["sram_bytes"] == kib["sram"] * 1024
    assert metrics["flash_bytes"] + metrics["dram_bytes"] == sum(kib.values()) * 1024 - metrics["sram_bytes"]
    assert sum(operator.cycles for operator in estimate.operators) == pytest.approx(metrics["cycles"], rel=0.01)
    assert vela.compile_file(path, make_target(*names)) == (tmp_path / "m_vela.tflite").read_bytes()
    assert "DataType" not in capfd.readouterr().err


def test_failed_compilation_names_the_compiler(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(tiny_models.make_tflite("dense", "int8"))
    target = make_target(*U55)
    without_memory = vela.CompilerTarget(target.architecture, "[architecture]\nmacs=128\ncores=1\n", "", 1e6)
    with pytest.raises(BadInput, match=r"^Vela cannot compile it: [^\n]+$"):
        vela.estimate(path, without_memory)


def test_compiled_file_is_refused_by_litert(tmp_path: Path) -> None:
    path = tmp_path / "net.tflite"
    path.write_bytes(tiny_models.make_tflite("dense", "int8"))
    target = make_target("ethos-u55-64", "Ethos_U55_High_End_Embedded", "Shared_Sram")
    path.write_bytes(vela.compile_file(path, target))
    with pytest.raises(
        BadInput, match=r"is compiled for an Ethos-U NPU, and runs there alone\. Give the file before Vela"
    ):
        LoadedModel.open(path, (1, 6, 6, 1), 1)
