"""Estimate what the shipped file costs on Arm Ethos-U NPUs, by Arm's compiler Vela."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NotRequired

from pydantic import ConfigDict
from typing_extensions import TypedDict

from lightexp.core.config import Count, Index, settings_dataclass
from lightexp.core.errors import BadInput
from lightexp.core.fingerprint import compute_key
from lightexp.core.protocols import Measurement, MeasurementContext, Metric, Note
from lightexp.core.regular_files import read_text
from lightexp.core.tflite_graph import TFLiteGraph, extract_layer_names

if TYPE_CHECKING:
    from lightexp.backend.vela import CompilerTarget, NpuEstimate

Direction = Literal["max", "min"] | None
_UNITS_AND_DIRECTIONS: Mapping[str, tuple[str, Direction]] = {
    "cycles": ("cycles", "min"),
    "us": ("µs", "min"),
    "npu_cycles": ("cycles", "min"),
    "sram_cycles": ("cycles", "min"),
    "flash_cycles": ("cycles", "min"),
    "dram_cycles": ("cycles", "min"),
    "sram_bytes": ("bytes", "min"),
    "flash_bytes": ("bytes", "min"),
    "dram_bytes": ("bytes", "min"),
    "weight_bytes": ("bytes", "min"),
    "npu_ops": ("", None),
    "cpu_ops": ("", "min"),
    "npu_ops_share": ("", "max"),
    "macs_per_cycle": ("", "max"),
}
_COUNTS = ("npu_ops", "cpu_ops", "npu_ops_share")
_LAYER_METRICS = ("cycles", "npu_cycles", "sram_cycles", "flash_cycles")
_NAME = re.compile(r"[\w.-]+")
_SCHEME_ADVICE = ": quantize.scheme=int8 with io=integer puts them there"
_FLOAT_ADVICE = ". quantize.scheme=int8 with io=integer computes with integers what it can"
_IO_ADVICE = "; io=integer leaves no float inputs and outputs to convert"


class NpuTarget(TypedDict):
    """An NPU in a system, as Vela describes it, and the memory that is there for a model, in KiB.

    Attributes:
        accelerator: Vela's name of the NPU with its multiply-accumulates per cycle, such as `ethos-u55-128`.
        system: Name of a system configuration of `config`; or its values, such as `{core_clock: 400e6, ...}`.
        memory: Name of a memory mode of `config`.
        config: Path of a Vela configuration file (`.ini`). Left out: the one that Vela ships.
        sram: SRAM. Left out: not stated, so that nothing is said of whether a model fits.
        flash: Flash, or what takes its place. Left out: as `sram`.
        sram_taken: SRAM used by the application. Left out: 0.
        flash_taken: Flash used by the application and its kernels. Left out: 0.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    accelerator: str
    system: str | dict[str, str | int | float]
    memory: str
    config: NotRequired[str]
    sram: NotRequired[Count]
    flash: NotRequired[Count]
    sram_taken: NotRequired[Index]
    flash_taken: NotRequired[Index]


@settings_dataclass
class Npu(Measurement):
    """Vela's estimates of the file on NPUs: cycles, time, memory, and which operators the NPU computes.

    Nothing runs: these are a compiler's estimates, which Arm says to check on a model of the chip or the chip itself.
    `npu/<target>/cycles` and `us` are of the operators on the NPU; `npu_cycles`, `sram_cycles` and `flash_cycles` say
    what they wait for. `sram_bytes` and `flash_bytes` (`dram_bytes` where the target has DRAM) are the memory in use,
    `weight_bytes` the weights as the NPU reads them. `npu/<target>/layer/<operator>/cycles` and so on are of single
    operators. `fits/<target>` is 1 if both memories suffice, where the target states them. Notes give the reason for
    each operator that stays on the CPU, and for a file without estimates.

    Attributes:
        targets: NPUs by name; see `NpuTarget` and `conf/deploy/`.
        compiler: Vela's version, and a digest of the user's configuration files; set from `targets`.
    """

    targets: dict[str, NpuTarget]
    compiler: str = field(default="", init=False)

    def __post_init__(self) -> None:
        """Check every target against Vela's configuration files, and describe the compiler."""
        if not self.targets:
            return
        from lightexp.backend import vela

        if reason := vela.find_unavailable_reason():
            raise ValueError(f"{', '.join(self.targets)}: {reason}")
        for name, target in self.targets.items():
            if not _NAME.fullmatch(name):
                raise ValueError(f"a target's name has letters, digits, '.', '_' and '-'. Received: {name!r}.")
            try:
                make_compiler_target(target)
            except ValueError as error:
                raise ValueError(f"deploy.npus.{name}: {error}") from None
        configs = sorted({target["config"] for target in self.targets.values() if "config" in target})
        digests = [compute_key(_read_config(path))[:12] for path in configs]
        object.__setattr__(self, "compiler", " ".join([f"Vela {vela.read_version()}", *digests]))

    @property
    def is_idle(self) -> bool:
        """Whether there is no target; see `Measurement`."""
        return not self.targets

    @property
    def gives(self) -> Mapping[str, Direction]:  # type: ignore[override]
        """Names and directions of the metrics of each target; see `Measurement`."""
        directions: dict[str, Direction] = {}
        for name, target in self.targets.items():
            directions |= {f"npu/{name}/{key}": way for key, (_, way) in _UNITS_AND_DIRECTIONS.items()}
            if _states_memory(target):
                directions[f"fits/{name}"] = "max"
        return directions

    def measure(self, context: MeasurementContext) -> list[Metric | Note]:
        """Measure `npu/*` and `fits/*` of the targets that are needed."""
        results: list[Metric | Note] = []
        for name, target in self.targets.items():
            if context.requested is None:
                results += self._measure_target(name, target, context.tflite)
            elif requested := {m for m in context.requested if m.startswith(f"npu/{name}/") or m == f"fits/{name}"}:
                results += _select(self._measure_target(name, target, context.tflite), requested, name)
        return results

    def _measure_target(self, name: str, target: NpuTarget, tflite: Path) -> list[Metric | Note]:
        from lightexp.backend import vela
        from lightexp.backend.flatbuffer import read_graph

        try:
            layers = dict(enumerate(name_operators(read_graph(tflite))))
            estimate = vela.estimate(tflite, make_compiler_target(target))
        except BadInput as error:
            advice = _FLOAT_ADVICE if "FLOAT32" in str(error) else ""
            return [Note(f"npu/{name}/cycles", f"{error}{advice}"), *self._make_fit(name, target, None)]
        keys = _UNITS_AND_DIRECTIONS if estimate.metrics["npu_ops"] else _COUNTS
        results: list[Metric | Note] = [self._make_metric(f"npu/{name}/{key}", estimate.metrics[key]) for key in keys]
        reason, is_float = explain_refusals(estimate.refused), any("Float" in text for _, text in estimate.refused)
        if not estimate.metrics["npu_ops"]:
            advice = _SCHEME_ADVICE if is_float else ""
            reason = f"no operator on the NPU{advice} ({reason})"
            return [*results, Note(f"npu/{name}/cycles", reason), *self._make_fit(name, target, None)]
        if estimate.refused:
            advice = _IO_ADVICE if is_float else ""
            reason = f"on the CPU, whose time is in none of the estimates: {reason}{advice}"
            results.append(Note(f"npu/{name}/cpu_ops", reason))
        for operator in estimate.operators:
            if operator.is_on_npu:
                layer = f"npu/{name}/layer/{operator.index:02}_{layers.get(operator.index, operator.kind)}"
                results += [self._make_metric(f"{layer}/{key}", getattr(operator, key)) for key in _LAYER_METRICS]
        return results + self._make_fit(name, target, estimate)

    def _make_metric(self, name: str, value: float) -> Metric:
        unit, direction = _UNITS_AND_DIRECTIONS[name.rpartition("/")[2]]
        return Metric(name, value, unit, direction, version=self._metric_version)

    @property
    def _metric_version(self) -> int:
        """The measurement's version and the compiler's as one number: metrics of two compilers are not compared."""
        from lightexp.backend.vela import read_version

        release = map(int, re.findall(r"\d+", read_version())[:3])
        return self.version * 10**6 + sum(n * weight for n, weight in zip(release, (10**4, 100, 1), strict=False))

    def _make_fit(self, name: str, target: NpuTarget, estimate: NpuEstimate | None) -> list[Metric | Note]:
        """Return the metric `fits/<target>`, with a note where it is 0; nothing where no memory is stated."""
        if not _states_memory(target):
            return []
        problem = explain_misfit(target, estimate.metrics) if estimate else "it does not run on the NPU"
        fits = Metric(f"fits/{name}", float(problem is None), "", "max", version=self._metric_version)
        return [fits] if problem is None else [fits, Note(fits.name, problem)]


def _select(results: Sequence[Metric | Note], requested: set[str], target: str) -> list[Metric | Note]:
    """Return the requested metrics of a target, and a note for each of them that is missing."""
    metrics: list[Metric | Note] = [result for result in results if result.name in requested]
    reason = next((note.text for note in results if isinstance(note, Note) and note.name == f"npu/{target}/cycles"), "")
    missing = sorted(requested - {result.name for result in metrics})
    return metrics + [Note(name, reason) for name in missing if reason]


def make_compiler_target(target: NpuTarget) -> CompilerTarget:
    """Describe a target for the compiler.

    Raises:
        ValueError: If its configuration file cannot be used, or a name is not in it.
    """
    from lightexp.backend import vela

    if "config" in target:
        config, origin = _read_config(target["config"]), target["config"]
    else:
        config, origin = vela.read_default_config(), "Vela's own vela.ini"
    system = target["system"]
    if not isinstance(system, str):
        values = "".join(f"{key}={value}\n" for key, value in system.items())
        config = f"[{vela.SYSTEM}.{vela.INLINE}]\n{values}\n{config}"
        system, origin = vela.INLINE, f"system, or {origin}"
    return vela.make_target(target["accelerator"], system, target["memory"], config, origin)


def _read_config(path: str) -> str:
    try:
        return read_text(Path(path).expanduser()).removeprefix("\ufeff")  # with which Windows begins a file
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}. Give a configuration file of Vela's.") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no text. Give a configuration file of Vela's (.ini).") from None


def _states_memory(target: NpuTarget) -> bool:
    return "sram" in target or "flash" in target


def explain_misfit(target: NpuTarget, metrics: Mapping[str, float]) -> str | None:
    """Explain why a file does not fit into a target's memory.

    Args:
        target: The target.
        metrics: The compiler's estimates; see `lightexp.backend.vela.NpuEstimate`.

    Returns:
        The reason, or None if it fits.
    """
    sizes = {
        "SRAM": (metrics["sram_bytes"], target.get("sram"), target.get("sram_taken", 0)),
        "flash": (metrics["flash_bytes"] + metrics["dram_bytes"], target.get("flash"), target.get("flash_taken", 0)),
    }
    problems = [
        f"{math.ceil(size / 1024):,} KiB of {kind} where {max(total - taken, 0):,} are free"
        for kind, (size, total, taken) in sizes.items()
        if total is not None and size > (total - taken) * 1024
    ]
    return f"it takes {' and '.join(problems)} (estimate)" if problems else None


def explain_refusals(refused: Sequence[tuple[str, str]]) -> str:
    """Return which operators stay on the CPU, by reason.

    Args:
        refused: Kind and reason of each; see `lightexp.backend.vela.NpuEstimate`.

    Example:
        >>> explain_refusals([("SHAPE", "Unsupported opType"), ("PACK", "Unsupported opType"), ("SHAPE", "Batch (5)")])
        'SHAPE, PACK: unsupported opType; SHAPE: batch'
    """
    kinds: dict[str, Counter[str]] = {}
    for kind, reason in refused:
        general = re.sub(r" \([^()]*\)$", "", reason)  # without the tensor's name or value
        kinds.setdefault(general[:1].lower() + general[1:], Counter())[kind] += 1
    return "; ".join(
        ", ".join(f"{count} x {kind}" if count > 1 else kind for kind, count in counts.items()) + f": {reason}"
        for reason, counts in kinds.items()
    )


def name_operators(graph: TFLiteGraph) -> list[str]:
    """Return a name for each operator of a file: its layer's where the file tells, else its kind."""
    titles = {op.outputs: graph.title(op, kernel) for op, kernel in graph.kernels if op.outputs}
    names = []
    for op in graph.ops:
        title = titles.get(op.outputs) or (graph.tensors[op.outputs[0]].name if op.outputs else "")
        layer = "_".join(extract_layer_names(title)[1:]) or op.kind.lower()
        names.append(re.sub(r"[^\w.-]", "_", layer))
    return names
