"""Compile `.tflite` files for Arm Ethos-U NPUs with Vela, and read the compiler's estimates.

Vela prints, and on a file that is no valid flatbuffer it ends the process: files are compiled in the sandbox.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightexp.backend import sandbox
from lightexp.backend.flatbuffer import read_graph
from lightexp.backend.output_capture import capture_output
from lightexp.core.errors import BadInput, suggest_nearest
from lightexp.core.json_text import encode_json
from lightexp.core.regular_files import read_text

PACKAGE = "ethos-u-vela"
SYSTEM, MEMORY = "System_Config", "Memory_Mode"
INLINE = "inline"
"""Name of the system configuration that a target gives as values instead of by name."""
_MIN_CLOCK_HZ = 1e6
_FLASH = ("OnChipFlash", "OffChipFlash")
_REFUSAL = re.compile(r"Warning \(supported operators\) operator: (?P<kind>\S+), ofm: '(?P<output>.*)'\nReason: (.*)")
# What Vela's command line passes to the compiler by default, with the table of operators.
_OPTIONS = """
[compiler]
enable_db=true
output_format=TFLite
cop_format=COP1

[scheduler]
optimize=Performance
arena_size_limit={arena}
disable_feature=
cpu_tensor_alignment=16
tensor_allocator=HillClimb

[graph]
softmax_int16_neg_exp_range=10.0
"""


@dataclass(frozen=True)
class CompilerTarget:
    """An NPU and its memories, as the compiler takes them.

    Attributes:
        architecture: The compiler's name of the NPU's family.
        system: Text of the system configuration.
        options: Text of the compiler's options.
        clock_hz: The NPU's clock.
    """

    architecture: str
    system: str
    options: str
    clock_hz: float


@dataclass(frozen=True)
class OperatorEstimate:
    """The compiler's estimate of one operator of the file.

    Attributes:
        index: Its position among the file's operators.
        kind: The compiler's name of its kind.
        is_on_npu: Whether the NPU computes it.
        cycles: Cycles that it takes, where computing and reading memory overlap.
        npu_cycles: Cycles of computing.
        sram_cycles: Cycles of access to the SRAM.
        flash_cycles: Cycles of access to the flash, or to the DRAM where the weights are there.
        macs: Its multiply-accumulates.
    """

    index: int
    kind: str
    is_on_npu: bool
    cycles: int
    npu_cycles: int
    sram_cycles: int
    flash_cycles: int
    macs: int


@dataclass(frozen=True)
class NpuEstimate:
    """The compiler's estimates of a file.

    Attributes:
        metrics: Cycles, bytes and counts by name.
        operators: Estimates by operator, in the order that they run; operators that cost nothing are left out.
        refused: Of each operator that stays on the CPU and why: its kind, and the compiler's reason.
    """

    metrics: dict[str, float]
    operators: tuple[OperatorEstimate, ...]
    refused: tuple[tuple[str, str], ...]


def find_unavailable_reason() -> str | None:
    """Return why the compiler is not available here, or None if it is."""
    return None if find_spec("ethosu") else f"the package {PACKAGE} is not installed: pip install {PACKAGE}"


@cache
def read_version() -> str:
    """Return the compiler's version, such as `5.2.0`."""
    return metadata.version(PACKAGE)


def read_default_config() -> str:
    """Return the text of the configuration file that Vela ships, with Arm's own systems and memory modes."""
    from ethosu.vela import architecture_features

    return read_text(Path(architecture_features.CONFIG_FILES_PATH) / "Arm" / "vela.ini")


@cache
def list_accelerators() -> list[str]:
    """Return the names of the NPUs that Vela compiles for, such as `ethos-u55-128`."""
    from ethosu.vela.architecture_features import Accelerator

    return list(Accelerator.member_list())


@cache
def make_target(accelerator: str, system: str, memory: str, config: str, origin: str) -> CompilerTarget:
    """Check a target against Vela's own rules, and describe it for the compiler.

    Args:
        accelerator: Name of the NPU; see `list_accelerators`.
        system: Name of a system configuration in `config`.
        memory: Name of a memory mode in `config`.
        config: Text of a configuration file of Vela's.
        origin: What the text is, for messages.

    Raises:
        ValueError: If the text cannot be parsed, does not hold a name, or holds a value that Vela refuses.
    """
    from ethosu.vela.architecture_features import ArchitectureFeatures
    from ethosu.vela.errors import VelaError

    if accelerator not in list_accelerators():
        raise ValueError(f"accelerator: {suggest_nearest(accelerator, list_accelerators())} Received: {accelerator!r}.")
    for kind, name in ((SYSTEM, system), (MEMORY, memory)):
        names = re.findall(rf"^\[{kind}\.(.+)\]\s*$", config, re.MULTILINE)
        if name not in names:
            raise ValueError(f"{origin} has no {kind} '{name}': {suggest_nearest(name, names)}")
    with NamedTemporaryFile("w", suffix=".ini", encoding="utf-8") as file, redirect_stdout(io.StringIO()):
        file.write(config)
        file.flush()
        try:
            # Positional: maximum block dependency, verbosity and an arena size from a command line, at their defaults.
            features = ArchitectureFeatures([file.name], accelerator, system, memory, 3, False, None)
        except VelaError as error:
            raise ValueError(f"{origin}: {_join_lines(error.data.removeprefix('Error: '))}") from None
        except Exception as error:  # a value of another type raises anything
            reason = f"there is no memory or port {error}" if isinstance(error, KeyError) else str(error)
            reason = _join_lines(reason.replace(file.name, origin)).rstrip(".")
            raise ValueError(f"{origin}, {system}, {memory}: {reason}.") from None
    if not (np.all(np.isfinite(features.memory_clock_scales)) and np.all(features.memory_clock_scales > 0)):
        raise ValueError(f"{origin}, {system}: every _clock_scale must be above 0.")
    if not _MIN_CLOCK_HZ <= features.core_clock < math.inf:  # 1 where it is missing
        raise ValueError(f"{origin}, {system}: core_clock must be in Hz, such as 500e6.")
    text = f"[architecture]\nmacs={features.num_macs_per_cycle}\ncores={features.ncores}\n[vela]\n"
    text += f"system_config_name={system}\nmemory_mode_name={memory}\n{config}"
    family = "".join(part.capitalize() for part in accelerator.split("-")[:-1])
    return CompilerTarget(family, text, _OPTIONS.format(arena=features.arena_cache_size), features.core_clock)


def estimate(tflite: Path, target: CompilerTarget) -> NpuEstimate:
    """Compile a file in the sandbox, and return the compiler's estimates.

    Raises:
        BadInput: If it cannot be compiled.
        RunFailed: If the compiler cannot be started, which says nothing of the file.
    """
    values = json.loads(_call("estimate_for_npu", tflite, target).tobytes())
    operators = tuple(OperatorEstimate(**operator) for operator in values["operators"])
    metrics = {**values["metrics"], "us": values["metrics"]["cycles"] / target.clock_hz * 1e6}
    return NpuEstimate(metrics, operators, tuple((kind, reason) for kind, reason in values["refused"]))


def compile_file(tflite: Path, target: CompilerTarget) -> bytes:
    """Compile a file in the sandbox, and return the compiled `.tflite`.

    Raises:
        BadInput: If it cannot be compiled.
        RunFailed: If the compiler cannot be started, which says nothing of the file.
    """
    return _call("compile_for_npu", tflite, target).tobytes()


def _call(function: str, tflite: Path, target: CompilerTarget) -> NDArray[Any]:
    if narrow := read_graph(tflite).narrow_layers:  # Vela 5.2 dies of a division by zero
        raise BadInput(f"Vela takes no weights below 8 bits. Use 8 in quantize.layers for: {', '.join(narrow)}")
    settings = {"architecture": target.architecture, "system": target.system, "options": target.options}
    return sandbox.run_sandboxed(function, tflite, np.empty(0, np.float32), **settings)


def compile_for_npu(
    tflite: Path, unused: NDArray[Any], architecture: str, system: str, options: str
) -> NDArray[np.uint8]:
    """Compile a file; to be called in the sandbox.

    Args:
        tflite: The file.
        unused: An array; calls of the sandbox pass one.
        architecture: See `CompilerTarget`.
        system: See `CompilerTarget`.
        options: See `CompilerTarget`.

    Returns:
        The compiled file's bytes.

    Raises:
        BadInput: If it cannot be compiled; with the compiler's message.
        OSError: If it cannot be read.
    """
    compiled, _ = _compile(tflite, architecture, system, options)
    return np.frombuffer(compiled.model, np.uint8)


def estimate_for_npu(
    tflite: Path, unused: NDArray[Any], architecture: str, system: str, options: str
) -> NDArray[np.uint8]:
    """Compile a file for its estimates; to be called in the sandbox.

    Args:
        tflite: The file.
        unused: An array; calls of the sandbox pass one.
        architecture: See `CompilerTarget`.
        system: See `CompilerTarget`.
        options: See `CompilerTarget`.

    Returns:
        `NpuEstimate` as JSON, without the time.

    Raises:
        BadInput: If it cannot be compiled; with the compiler's message.
        OSError: If it cannot be read.
    """
    compiled, output = _compile(tflite, architecture, system, options)
    refused = [(match["kind"], match[3].strip()) for match in _REFUSAL.finditer(output)]
    operators = list(_list_operators(compiled.opt_database.tables))
    content = {"metrics": _list_metrics(compiled.perf_report), "operators": operators, "refused": refused}
    return np.frombuffer(encode_json(content).encode(), np.uint8)


def _compile(tflite: Path, architecture: str, system: str, options: str) -> tuple[Any, str]:
    """Return the compiled model and what the compiler has printed."""
    from ethosu import regor

    content = tflite.read_bytes()
    with capture_output(1) as read_output:  # where it says what it leaves to the CPU
        try:
            compiled = regor.compile(architecture, content, "TFLITE", system, options=options, verbose=False)
        except (RuntimeError, ValueError) as error:
            raise BadInput(f"Vela cannot compile it: {_join_lines(str(error))}") from None
        return compiled, read_output()


def _list_metrics(report: Any) -> dict[str, float]:
    """Return the compiler's estimates of the entire file by name."""
    memories = {str(memory.memoryName): memory for memory in report.memories.values()}

    def sum_memories(field: str, *names: str) -> int:
        return sum(int(getattr(memories[name], field)) for name in names if name in memories)

    operators = report.npuOps + report.cpuOps
    return {
        "cycles": report.totalCycles,
        "npu_cycles": report.npuCycles,
        "sram_cycles": sum_memories("totalAccessCycles", "Sram"),
        "flash_cycles": sum_memories("totalAccessCycles", *_FLASH),
        "dram_cycles": sum_memories("totalAccessCycles", "Dram"),
        "sram_bytes": sum_memories("peakUsage", "Sram"),
        "flash_bytes": sum_memories("peakUsage", *_FLASH),
        "dram_bytes": sum_memories("peakUsage", "Dram"),
        "weight_bytes": report.encodedWeights,
        "npu_ops": report.npuOps,
        "cpu_ops": report.cpuOps,
        "npu_ops_share": report.npuOps / operators if operators else 0.0,
        "macs_per_cycle": report.macCount / report.totalCycles if report.totalCycles else 0.0,
    }


def _list_operators(tables: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the estimates of the file's operators: the sums of what the compiler has made of each."""
    sources = {row["id"]: row for row in _read_rows(tables["source"])}
    queued = {row["optimised_id"] for row in _read_rows(tables["queue"])}
    merged: dict[str, dict[str, Any]] = {}
    for row in _read_rows(tables["perf"]):
        source = sources.get(row["source_id"])
        if source is None:
            continue
        operator = merged.setdefault(
            row["source_id"],
            {"index": int(source["ext_key"]), "kind": source["operator"], "is_on_npu": False},
        )
        operator["is_on_npu"] |= row["optimised_id"] in queued
        for name, columns in {
            "cycles": ("op_cycles",),
            "npu_cycles": ("npu_cycles",),
            "sram_cycles": ("Sram_ac",),
            "flash_cycles": ("OnChipFlash_ac", "OffChipFlash_ac", "Dram_ac"),
            "macs": ("mac_count",),
        }.items():
            operator[name] = operator.get(name, 0) + sum(int(row.get(column, 0)) for column in columns)
    yield from merged.values()


def _read_rows(table: Any) -> list[dict[str, str]]:
    return [dict(zip(table.header, row, strict=True)) for row in table.data]


def _join_lines(text: str) -> str:
    return " ".join(text.split())
