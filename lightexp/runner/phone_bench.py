"""Latency of a `.tflite` on an Android phone, by Google's program `benchmark_model`."""

from __future__ import annotations

import math
import re
import secrets
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from lightexp.core.errors import BadInput, RunFailed
from lightexp.core.metrics import Metric, Note
from lightexp.core.regular_files import open_regular
from lightexp.execution.android import AndroidDevice, DeviceTimeout

_FOLDER = "/data/local/tmp/lightexp-"
_MODEL, _PROGRAM = "model.tflite", "benchmark_model"
_MACHINES = {3: "x86", 40: "armeabi-v7a", 62: "x86_64", 183: "arm64-v8a"}
"""Android's name of the processor that an ELF file is made for, by `e_machine`."""
_MAX_LINE = 1000  # characters; the patterns below take the square of a line's length
_NUMBER = r"([-+.\w]+)"
_TIMINGS = re.compile(
    rf"Inference timings in us: Init: {_NUMBER}, First inference: {_NUMBER}, Warmup \(avg\): {_NUMBER}, "
    rf"Inference \(avg\): {_NUMBER}"
)
_DEVIATION = re.compile(rf"^.*count=\d+ .*\bstd={_NUMBER}", re.MULTILINE)
_MEMORY = re.compile(rf"emory footprint[^\n]*\(MB\): init={_NUMBER} overall={_NUMBER}")
_KERNELS = re.compile(r"partially executed by the delegate w/ (\d+) delegate kernels")
_ACCELERATORS = re.compile(r"NNAPI accelerators available: \[(.*?)\]")
_UNKNOWN_FLAGS = re.compile(r"Unconsumed cmdline flags: (.*)")
_NOT_EXECUTABLE = re.compile(r"not executable: .*|Exec format error|cannot execute .*|CANNOT LINK EXECUTABLE.*")
_SYMPTOMS = re.compile(r"(?:will not be executed by|Failed to|failed|ERROR|unsupported|not supported|Segmentation)")


@dataclass(frozen=True)
class PhoneConfiguration:
    """One way of running a model on a phone.

    Attributes:
        name: Name in metrics, such as `cpu2` or `gpu`.
        flags: The program's flags that select it.
        delegate: What the program calls the delegate that must take the model; empty for the CPU.
    """

    name: str
    flags: tuple[str, ...]
    delegate: str = ""


GPU = PhoneConfiguration("gpu", ("--use_gpu=true",), "GPU")
NNAPI = PhoneConfiguration("nnapi", ("--use_nnapi=true",), "NNAPI")


def make_cpu_configuration(threads: int) -> PhoneConfiguration:
    """Return the configuration of a number of CPU threads."""
    return PhoneConfiguration(f"cpu{threads}", (f"--num_threads={threads}",))


@dataclass(frozen=True)
class PhoneTimings:
    """Times of a model in one configuration, such as a number of threads, or why there are none.

    Attributes:
        values: Means of the times in microseconds (`us`, `std_us`, `init_us`, `first_us`) and `memory_mb`; empty if
            the model does not run so.
        note: Why it does not run, or runs only in part on what was asked for; empty otherwise.
    """

    values: dict[str, float] = field(default_factory=dict)
    note: str = ""

    def make_metrics(self, phone: str, configuration: PhoneConfiguration) -> list[Metric | Note]:
        """Return them for a record, as `phone/<phone>/<configuration>_us` and, below it, the others.

        Args:
            phone: The phone's model, as `name_phone` returns it.
            configuration: What was measured.
        """
        place = f"phone/{phone}/{configuration.name}"
        metrics: list[Metric | Note] = []
        for name, value in self.values.items():
            unit = "MB" if name.endswith("_mb") else "µs"
            metrics.append(Metric(f"{place}_us" if name == "us" else f"{place}/{name}", value, unit, "min"))
        return [*metrics, Note(f"{place}_us", self.note)] if self.note else metrics


def name_phone(model: str) -> str:
    """Return a phone's model as metrics have it.

    Example:
        >>> name_phone("Pixel 6 Pro")
        'Pixel_6_Pro'
    """
    return re.sub(r"[^0-9A-Za-z_.-]+", "_", model).strip("._-")[:60] or "unknown"


def check_program(program: Path) -> str:
    """Check that a file can be Android's `benchmark_model`, and return the processor that it is made for.

    Raises:
        BadInput: If it cannot; says what it is.
    """
    advice = "Give Google's native benchmark_model for Android, such as android_aarch64_benchmark_model."
    try:
        with open_regular(program) as file:
            head = file.read(20)
    except OSError as error:
        raise BadInput(f"--benchmark-model={program} cannot be read: {error.strerror}. {advice}") from None
    if head[:4] == b"PK\x03\x04":
        raise BadInput(f"--benchmark-model={program} is an app or an archive. {advice}")
    if head[:4] != b"\x7fELF" or len(head) < 20:
        raise BadInput(f"--benchmark-model={program} is no program for Android. {advice}")
    (machine,) = struct.unpack("<H", head[18:20])
    return _MACHINES.get(machine, f"the processor {machine}")


@contextmanager
def open_benchmark(device: AndroidDevice, model: Path, program: Path) -> Iterator[PhoneBenchmark]:
    """Copy a model and the program to a new folder of a phone, which is removed in the end.

    Args:
        device: The phone.
        model: The `.tflite`.
        program: Android's `benchmark_model`.

    Raises:
        BadInput: If the program is not made for the phone's processor.
        RunFailed: If the phone does not take the files.
    """
    machine = check_program(program)
    machines = device.read_property("ro.product.cpu.abilist") or device.read_property("ro.product.cpu.abi")
    if machines and machine not in machines.split(","):
        raise BadInput(f"--benchmark-model={program} is for {machine}, and {device.serial} runs {machines}.")
    folder = f"{_FOLDER}{secrets.token_hex(6)}"
    try:
        _require(device, "mkdir", folder)
        device.push(model, f"{folder}/{_MODEL}")
        device.push(program, f"{folder}/{_PROGRAM}")
        _require(device, "chmod", "755", f"{folder}/{_PROGRAM}")
        yield PhoneBenchmark(device, folder, program)
    finally:
        with suppress(RunFailed):  # gone, perhaps
            device.run("rm", "-rf", folder)


def _require(device: AndroidDevice, *command: str) -> None:
    code, output = device.run(*command)
    if code:
        raise RunFailed(f"{device.serial}: {command[0]} failed: {output or code}.")


@dataclass(frozen=True)
class PhoneBenchmark:
    """A model and the program on a phone.

    Attributes:
        device: The phone.
        folder: Their folder there.
        program: The program here, for messages.
    """

    device: AndroidDevice
    folder: str
    program: Path

    def measure(self, configuration: PhoneConfiguration, runs: int, warmup: int, seconds: float) -> PhoneTimings:
        """Run the model on the phone.

        Args:
            configuration: How to run it.
            runs: Timed runs, at least; the program goes on for a second.
            warmup: Runs before those, at least.
            seconds: Time limit.

        Raises:
            BadInput: If the phone cannot execute the program.
            DeviceGone: If the phone does not answer any more.
        """
        flags = [f"--graph={self.folder}/{_MODEL}", *configuration.flags]
        flags += [f"--num_runs={runs}", f"--warmup_runs={warmup}"]
        try:
            code, output = self.device.run(f"{self.folder}/{_PROGRAM}", *flags, timeout=seconds)
        except DeviceTimeout:
            # It would go on during the next measurement. The brackets keep the pattern from matching this command.
            self.device.run("pkill", "-f", self.folder.replace("lightexp", "[l]ightexp"))
            return PhoneTimings(note=f"not done after {seconds:g} s; --timeout sets another limit")
        if code and (problem := _NOT_EXECUTABLE.search(output)):
            raise BadInput(f"--benchmark-model={self.program}: {self.device.serial} says: {problem[0]}.")
        return parse_output(output, configuration, code)


def parse_output(output: str, configuration: PhoneConfiguration, code: int = 0) -> PhoneTimings:
    """Return what the program has printed of a configuration.

    The program goes on with the CPU where a delegate does not take the model, or where it does not know a flag; such
    times are not those of the delegate.

    Args:
        output: Its output.
        configuration: What was asked for.
        code: Its exit code. Defaults to 0.
    """
    output = "\n".join(line[:_MAX_LINE] for line in output.splitlines())
    timings = _TIMINGS.findall(output)
    is_applied = f"Explicitly applied {configuration.delegate} delegate" in output or not configuration.delegate
    if code or not timings or not is_applied or not _is_time(timings[-1][3]) or not float(timings[-1][3]):
        return PhoneTimings(note=_find_reason(output, configuration, code))
    init, first, _, mean = timings[-1]
    texts = {"us": mean, "std_us": "", "init_us": init, "first_us": first}
    if deviations := _DEVIATION.findall(output):
        texts["std_us"] = deviations[-1]
    if memory := _MEMORY.findall(output):
        texts["memory_mb"] = memory[-1][1]
    values = {name: float(text) for name, text in texts.items() if _is_time(text)}
    return PhoneTimings(values, _describe_delegate(output))


def _is_time(text: str) -> bool:
    """Return whether a text is a number as the program prints it, such as `1.2e+06`, and neither `nan` nor negative."""
    try:
        return 0 <= float(text) < math.inf
    except ValueError:
        return False


def _describe_delegate(output: str) -> str:
    """Return in what respect a delegate has not run the model; nothing where it has."""
    if kernels := _KERNELS.search(output):
        return f"runs there in part, as {kernels[1]} kernels, and for the rest on the CPU"
    accelerators = _ACCELERATORS.search(output)
    if accelerators and accelerators[1].strip() == "nnapi-reference":
        return "the phone offers nnapi-reference alone, which computes on the CPU"
    return ""


def _find_reason(output: str, configuration: PhoneConfiguration, code: int) -> str:
    """Return why the program gave no times of a configuration, in one line."""
    ignored = _UNKNOWN_FLAGS.search(output)
    if ignored and configuration.delegate and configuration.flags[0] in ignored[1]:
        return f"this benchmark_model does not know {configuration.flags[0]}"
    lines = [line.strip().removeprefix("INFO: ").removeprefix("ERROR: ") for line in output.splitlines()]
    symptoms: Sequence[str] = [line for line in lines if _SYMPTOMS.search(line)]
    if symptoms:
        return symptoms[0][:200].rstrip(".")
    if code:
        return f"the program ended with exit code {code}"
    if configuration.delegate and _TIMINGS.search(output):
        return f"the program does not say that the {configuration.delegate} delegate was applied"
    return "the program printed no times"
