"""Vela's estimates as metrics, of real files compiled by the real compiler."""

from __future__ import annotations

import random
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from lightexp.backend import embedded_format
from lightexp.backend.edge_quantizer import quantize
from lightexp.core.errors import BadInput
from lightexp.core.fingerprint import compute_key
from lightexp.core.protocols import MeasurementContext, Metric, Note
from lightexp.core.tflite_graph import Operator, Tensor, TFLiteGraph
from lightexp.metrics.npu import Npu, NpuTarget, explain_misfit, name_operators
from lightexp.runner.compose import compose_settings
from tests.metrics import tiny_models

U55: NpuTarget = {"accelerator": "ethos-u55-128", "system": "Ethos_U55_High_End_Embedded", "memory": "Shared_Sram"}
PORTS = "axi0_port: Sram, axi1_port: OffChipFlash"
ROOMY: NpuTarget = {**U55, "sram": 64, "flash": 64}
TINY: NpuTarget = {**U55, "sram": 64, "flash": 64, "sram_taken": 64}


def measure(
    path: Path, targets: dict[str, NpuTarget], requested: frozenset[str] | None = None
) -> tuple[dict[str, Metric], dict[str, str]]:
    """Return metrics and notes by name."""
    context = MeasurementContext(path, path, tiny_models.make_data("conv"), 1, requested=requested)
    results = Npu(targets).measure(context)
    metrics = {metric.name: metric for metric in results if isinstance(metric, Metric)}
    return metrics, {note.name: note.text for note in results if isinstance(note, Note)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "m.tflite"


def test_integer_file_has_every_metric(path: Path) -> None:
    path.write_bytes(tiny_models.make_tflite("dense", "int8", batch=1))
    metrics, notes = measure(path, {"roomy": ROOMY, "tiny": TINY})
    layers = {name for name in metrics if "/layer/" in name}
    assert {*metrics} - layers == {*Npu({"roomy": ROOMY, "tiny": TINY}).gives}
    values = {name: metric.value for name, metric in metrics.items()}
    assert (values["npu/tiny/npu_ops_share"], values["npu/tiny/cpu_ops"]) == (1, 0)
    assert values["npu/tiny/us"] == pytest.approx(values["npu/tiny/cycles"] / 500)  # at 500 MHz
    assert values["npu/tiny/cycles"] == sum(
        values[name] for name in layers if name.startswith("npu/tiny/layer/") and name.endswith("/cycles")
    )
    assert [layer[:8] for layer in sorted({name.split("/")[3] for name in layers})] == ["01_dense", "02_dense"]
    assert (metrics["npu/tiny/us"].unit, metrics["npu/tiny/sram_bytes"].direction) == ("µs", "min")
    assert (values["fits/roomy"], values["fits/tiny"]) == (1, 0)
    assert notes == {"fits/tiny": "it takes 1 KiB of SRAM where 0 are free (estimate)"}


def test_only_requested_metrics_are_estimated(path: Path) -> None:
    path.write_bytes(tiny_models.make_tflite("dense", "int8", batch=1))
    targets: dict[str, NpuTarget] = {"roomy": ROOMY, "broken": {**U55, "memory": "Sram_Only"}}
    metrics, _ = measure(path, targets, frozenset({"npu/roomy/us", "fits/roomy", "accuracy/val"}))
    assert {*metrics} == {"npu/roomy/us", "fits/roomy"}
    assert measure(path, targets, frozenset({"accuracy/val"})) == ({}, {})
    path.write_bytes(tiny_models.make_tflite("dense"))
    metrics, notes = measure(path, targets, frozenset({"npu/roomy/us", "npu/roomy/cpu_ops"}))
    assert {*metrics} == {"npu/roomy/cpu_ops"} and {*notes} == {"npu/roomy/us"}
    assert notes["npu/roomy/us"].startswith("no operator on the NPU")


@pytest.mark.parametrize("scheme", ["float", "dynamic"])
def test_float_file_says_which_scheme_helps(scheme: str, path: Path) -> None:
    path.write_bytes(tiny_models.make_tflite("dense", scheme))
    metrics, notes = measure(path, {"u55": ROOMY})
    assert {name: metric.value for name, metric in metrics.items()} == {
        "npu/u55/npu_ops": 0,
        "npu/u55/cpu_ops": pytest.approx(3, abs=1),
        "npu/u55/npu_ops_share": 0,
        "fits/u55": 0,
    }
    assert notes["npu/u55/cycles"].startswith(
        "no operator on the NPU: quantize.scheme=int8 with io=integer puts them there (FULLY_CONNECTED"
    )
    assert notes["fits/u55"] == "it does not run on the NPU"


def test_operators_on_the_cpu_have_reasons(path: Path) -> None:
    path.write_bytes(tiny_models.make_tflite("conv", "int8"))
    metrics, notes = measure(path, {"u55": U55})
    assert metrics["npu/u55/cpu_ops"].value == 3
    assert notes == {
        "npu/u55/cpu_ops": "on the CPU, whose time is in none of the estimates: PACK, STRIDED_SLICE: "
        "operation has shapeless tensor; SHAPE: unsupported opType"
    }


def test_layers_of_4_bits_are_named(path: Path) -> None:
    path.write_bytes(tiny_models.make_tflite("dense"))
    path.write_bytes(quantize(path, np.empty(0, np.float32), "dynamic", 8, [(4, 0), (8, 0)], io="float").tobytes())
    metrics, notes = measure(path, {"u55": U55})
    assert metrics == {}
    text = "Vela takes no weights below 8 bits. Use 8 in quantize.layers for: dense"
    assert re.fullmatch(rf"{text}(_\d+)?", notes["npu/u55/cycles"])  # Keras numbers the layers of a process


def test_file_that_is_none_has_a_note(path: Path) -> None:
    path.write_bytes(b"no flatbuffer")
    metrics, notes = measure(path, {"u55": ROOMY})
    assert metrics["fits/u55"].value == 0 and len(metrics) == 1
    assert "\n" not in notes["npu/u55/cycles"] and str(path) in notes["npu/u55/cycles"]


def test_float_operator_that_the_compiler_refuses_has_advice(path: Path) -> None:
    model = embedded_format.read_model(tiny_models.make_tflite("dense"))
    code = next(code for code in model.operatorCodes if code.builtinCode == schema.BuiltinOperator.RESHAPE)
    code.builtinCode = schema.BuiltinOperator.HARD_SWISH
    for operator in model.subgraphs[0].operators[:1]:
        operator.inputs, operator.builtinOptions, operator.builtinOptionsType = operator.inputs[:1], None, 0
    path.write_bytes(embedded_format.pack(model))
    note = measure(path, {"u55": U55})[1]["npu/u55/cycles"]
    assert "HARD_SWISH" in note and note.endswith(
        "quantize.scheme=int8 with io=integer computes with integers what it can"
    )


def test_broken_files_are_one_line_each(path: Path) -> None:
    """Bit-flipped and truncated files have metrics or one line, and the next file is compiled all the same."""
    content, rng = tiny_models.make_tflite("conv", "int8"), random.Random(3)
    refused = 0
    for number in range(12):
        broken = bytearray(content if number % 3 else content[: rng.randrange(len(content))])
        for _ in range(number % 3):
            broken[rng.randrange(len(broken))] ^= 1 << rng.randrange(8)
        path.write_bytes(broken)
        metrics, notes = measure(path, {"u55": ROOMY})
        assert metrics and all("\n" not in note and len(note) < 500 for note in notes.values())
        refused += "npu/u55/cycles" in notes
    assert 4 < refused < 12
    path.write_bytes(content)
    assert measure(path, {"u55": ROOMY})[0]["npu/u55/npu_ops"].value == 6


def test_operators_are_named_by_layer_or_kind() -> None:
    tensors = (Tensor("net/conv 1/Conv2D", (1, 2), "INT8", None), Tensor("plain", (1, 2), "INT8", None))
    ops = (Operator("CONV_2D", (1,), (0,)), Operator("MAX_POOL_2D", (0,), (1,)), Operator("ASSIGN_VARIABLE", (0,), ()))
    assert name_operators(TFLiteGraph(tensors, ops, (1,), (1,))) == ["conv_1", "max_pool_2d", "assign_variable"]


def test_misfit_counts_dram_as_flash() -> None:
    metrics = {"sram_bytes": 1024.0, "flash_bytes": 0.0, "dram_bytes": 70 * 1024.0}
    assert explain_misfit({**U55, "flash": 69}, metrics) == "it takes 70 KiB of flash where 69 are free (estimate)"
    assert explain_misfit({**U55, "flash": 70, "sram": 1}, metrics) is None


def test_no_target_leaves_a_run_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "ethosu", None)  # its import would raise
        assert "npu" not in compose_settings(["measure=default"]).measure
    settings = compose_settings(["measure=default", "deploy=[nano33,ethos_u55_128]"])
    assert {*settings.measure["micro"].boards} == {"nano33"}  # type: ignore[attr-defined]
    assert {*settings.measure["npu"].targets} == {"ethos_u55_128"}  # type: ignore[attr-defined]


def test_key_covers_compiler_and_configuration(tmp_path: Path) -> None:
    config = tmp_path / "mine.ini"
    own: NpuTarget = {**U55, "system": "Mine", "memory": "Mode", "config": str(config)}
    text = "[System_Config.Mine]\ncore_clock=100e6\naxi0_port=Sram\naxi1_port=OffChipFlash\n[Memory_Mode.Mode]\n"
    text += "const_mem_area=Axi1\narena_mem_area=Axi0\ncache_mem_area=Axi0\n"
    config.write_text(text)
    first = Npu({"own": own})
    assert first.compiler.startswith("Vela 5.")
    config.write_text(text.replace("100e6", "200e6"))
    assert compute_key(Npu({"own": own})) != compute_key(first)
    assert compute_key(Npu({"u55": U55})) == compute_key(Npu({"u55": U55}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "has no System_Config 'Mine': nothing is known by that name."),
        (b"\xef\xbb\xbf[System_Config.Mine]\n[System_Config.Mine]\n[Memory_Mode.Mode]\n", "already exists"),
        (b"\xff\xfe\x00", "is no text. Give a configuration file of Vela's (.ini)."),
        (b"core_clock=1\n[System_Config.Mine]\n[Memory_Mode.Mode]\n", "contains no section headers"),
        (b"[System_Config.Mine]\n[System_Config.Mine]\n[Memory_Mode.Mode]\n", "from '{config}'"),
        (b"[System_Config.Mine]\naxi0_port=Rom\n[Memory_Mode.Mode]\n", "no memory or port 'Rom'"),
        (b"[System_Config.Mine]\ninherit=System_Config.Gone\n[Memory_Mode.Mode]\n", "System_Config.Gone"),
        (b"[System_Config.Mine]\ninherit=A\n[A]\ninherit=System_Config.Mine\n[Memory_Mode.Mode]\n", "recursion"),
    ],
)
def test_broken_configuration_is_one_line(text: bytes, message: str, tmp_path: Path) -> None:
    config = tmp_path / "mine.ini"
    config.write_bytes(text)
    target = f"+deploy.npus.mine={{accelerator: ethos-u55-64, system: Mine, memory: Mode, config: '{config}'}}"
    with pytest.raises(BadInput) as raised:
        compose_settings(["measure=default", target])
    assert message.format(config=config) in str(raised.value) and "\n" not in str(raised.value)
    assert str(raised.value).startswith("measure.npu: deploy.npus.mine: ")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("deploy=[ethos_u55_12]", "ethos_u55_12]: no such choice, did you mean 'ethos_u55_128'?"),
        (
            "deploy.npus.ethos_u55_128.accelerator=ethos-u55-12",
            "ethos_u55_128: accelerator: did you mean 'ethos-u55-128'?",
        ),
        ("deploy.npus.ethos_u55_128.system=Ethos_U55_High", "has no System_Config 'Ethos_U55_High': did you mean"),
        ("deploy.npus.ethos_u55_128.memory=Shared_Ram", "no Memory_Mode 'Shared_Ram': did you mean 'Shared_Sram'?"),
        ("+deploy.npus.ethos_u55_128.config=gone.ini", "gone.ini cannot be read: No such file or directory."),
        ("+deploy.npus.ethos_u55_128.config=/dev/null", "/dev/null cannot be read: it is a device, not a file."),
        ("+deploy.npus.ethos_u55_128.clock=3", "measure.npu.targets.ethos_u55_128.clock: Extra inputs"),
        ("+deploy.targets.mine={flash: 9, ram: 9, ram_taken: 0}", "Not given: ['boards.mine.flash_taken']"),
        ("deploy.npus.ethos_u55_128.system={core_clock: fast}", "could not convert string to float: 'fast'"),
        (f"deploy.npus.ethos_u55_128.system={{core_clock: 0, {PORTS}}}", "core_clock must be in Hz, such as 500e6"),
        (f"deploy.npus.ethos_u55_128.system={{core_clock: 5e8, {PORTS}, Sram_clock_scale: 0}}", "must be above 0"),
        ("deploy.npus.ethos_u55_128.system={core_clock: 5e8}", "Invalid configuration of const_mem_area=Sram"),
    ],
)
def test_bad_target_is_one_line(override: str, message: str) -> None:
    choice = [] if override.startswith("deploy=") else ["deploy=[ethos_u55_128]"]
    with pytest.raises(BadInput) as raised:
        compose_settings(["measure=default", *choice, override])
    assert message in str(raised.value) and "\n" not in str(raised.value)
