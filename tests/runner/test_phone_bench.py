"""What is read from the output of `benchmark_model`, and which files can be that program."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from lightexp.core.errors import BadInput
from lightexp.core.metrics import Metric, Note
from lightexp.runner.phone_bench import (
    GPU,
    NNAPI,
    PhoneConfiguration,
    check_program,
    make_cpu_configuration,
    name_phone,
    parse_output,
)
from tests.stand_in_adb import APPLIED, NOT_EXECUTED, TIMES

CPU = make_cpu_configuration(2)
PARTLY = APPLIED.replace(
    "completely executed by the delegate", "partially executed by the delegate w/ 3 delegate kernels"
)
OLD = """Initialized session in 870.557ms.
count=50 first=119212 curr=118055 min=113737 max=124776 avg=119375 std=1948

Inference timings in us: Init: 870557, First inference: 130565, Warmup (avg): 122373, Inference (avg): 119375
Peak memory footprint (MB): init=2.19531 overall=4.19531
"""


def test_parse_output_reads_times_and_memory() -> None:
    timings = parse_output(TIMES.format(mean="637.2", extra=""), CPU)
    expected = {"us": 637.2, "std_us": 60, "init_us": 896, "first_us": 871, "memory_mb": 7.25}
    assert (timings.values, timings.note) == (expected, "")
    assert parse_output(OLD, CPU).values == {
        "us": 119_375, "std_us": 1_948, "init_us": 870_557, "first_us": 130_565, "memory_mb": 4.19531,
    }  # fmt: skip
    assert parse_output(TIMES.format(mean="1.2e+06", extra=""), CPU).values["us"] == 1_200_000
    assert parse_output(TIMES.format(mean="99", extra=APPLIED), GPU).values["us"] == 99
    assert parse_output("count=1 " * 10**6 + "\n" + OLD, CPU).values == parse_output(OLD, CPU).values  # at once
    assert not parse_output(TIMES.format(mean="0", extra=""), CPU).values


@pytest.mark.parametrize(
    ("output", "configuration", "code", "reason"),
    [
        (
            TIMES.format(mean="700", extra=NOT_EXECUTED),
            NNAPI,
            0,
            "the model graph will not be executed by the delegate",
        ),
        (TIMES.format(mean="700", extra=""), GPU, 0, "the program does not say that the GPU delegate was applied"),
        (
            "WARN: Unconsumed cmdline flags: --use_nnapi=true\n" + TIMES.format(mean="700", extra=""),
            NNAPI,
            0,
            "this benchmark_model does not know --use_nnapi=true",
        ),
        ("ERROR: Failed to apply GPU delegate.\nERROR: Benchmarking failed.\n", GPU, 1, "Failed to apply GPU delegate"),
        (TIMES.format(mean="nan", extra=""), CPU, 0, "the program printed no times"),
        (TIMES.format(mean="-1", extra=""), CPU, 0, "the program printed no times"),
        ("", CPU, 139, "the program ended with exit code 139"),
        ("", CPU, 0, "the program printed no times"),
    ],
)
def test_parse_output_says_why_there_are_no_times(
    output: str, configuration: PhoneConfiguration, code: int, reason: str
) -> None:
    timings = parse_output(output, configuration, code)
    assert not timings.values and timings.note.endswith(reason)
    assert timings.make_metrics("A", configuration) == [Note(f"phone/A/{configuration.name}_us", timings.note)]


def test_parse_output_notes_what_runs_on_the_cpu() -> None:
    timings = parse_output(TIMES.format(mean="99", extra=PARTLY), GPU)
    assert timings.note == "runs there in part, as 3 kernels, and for the rest on the CPU"
    metrics = timings.make_metrics("Pixel_6", GPU)
    assert metrics[0] == Metric("phone/Pixel_6/gpu_us", 99, "µs", "min")
    assert Metric("phone/Pixel_6/gpu/memory_mb", 7.25, "MB", "min") in metrics
    assert metrics[-1] == Note("phone/Pixel_6/gpu_us", timings.note)
    reference = NOT_EXECUTED.replace("Though NNAPI delegate is explicitly applied", "Explicitly applied NNAPI delegate")
    reference = reference.replace("will not be executed", "will be completely executed")
    assert "nnapi-reference alone" in parse_output(TIMES.format(mean="99", extra=reference), NNAPI).note


@pytest.mark.parametrize(("model", "name"), [("Pixel 6 Pro", "Pixel_6_Pro"), ("a/b\n", "a_b"), ("..", "unknown")])
def test_name_phone_suits_metrics(model: str, name: str) -> None:
    assert name_phone(model) == name


def make_elf(machine: int) -> bytes:
    return b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", 3, machine) + bytes(44)


def test_check_program_names_the_processor(tmp_path: Path) -> None:
    path = tmp_path / "program"
    for machine, name in ((183, "arm64-v8a"), (40, "armeabi-v7a"), (62, "x86_64"), (243, "the processor 243")):
        path.write_bytes(make_elf(machine))
        assert check_program(path) == name


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file"),
        (b"", "is no program for Android"),
        (b"\x7fELF", "is no program for Android"),
        (b"PK\x03\x04" + bytes(99), "is an app or an archive. Give Google's native"),
        (b"#!/bin/sh\necho Inference timings", "is no program for Android"),
    ],
)
def test_check_program_refuses_other_files(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "program"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadInput, match=message):
        check_program(path)
