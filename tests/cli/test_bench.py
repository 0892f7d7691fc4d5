"""Tests of `lightexp bench`, on this machine and with a stand-in of `adb`."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from lightexp.cli import bench
from lightexp.core.errors import BadInput, RunFailed
from lightexp.core.metrics import Metric
from lightexp.core.record import Record, read_record
from tests.metrics import tiny_models
from tests.runner.test_phone_bench import make_elf
from tests.stand_in_adb import SERIAL, StandInAdb


@pytest.fixture
def adb(tmp_path: Path) -> StandInAdb:
    (tmp_path / "adb").mkdir()
    return StandInAdb(tmp_path / "adb")


@pytest.fixture
def folder(tmp_path: Path, make_record: Callable[..., Record]) -> Path:
    """A run that is done, whose model is no more than bytes."""
    record = make_record(id="a run", status="done", files={"model": "model.tflite"})
    folder = tmp_path / "outputs" / "runs" / record.id
    folder.mkdir(parents=True)
    (folder / "model.tflite").write_bytes(b"a model")
    record.write(folder)
    return folder


@pytest.fixture
def arguments(adb: StandInAdb, tmp_path: Path) -> list[str]:
    program = tmp_path / "it's the program"
    program.write_bytes(make_elf(183))
    return ["--adb", SERIAL, "--benchmark-model", str(program), "--adb-path", adb.install()]


def test_bench_measures_on_a_phone(
    adb: StandInAdb, folder: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    record = read_record(folder)
    record.stages[-1].metrics.append(Metric("phone/Pixel_6_Pro/cpu4_us", 7.0))  # of an earlier version of the model
    record.write(folder)
    assert bench.run([str(folder), *arguments, "--runs=70", "--warmup=3"]) == 0
    output = capsys.readouterr().out
    assert "Pixel 6 Pro, Android 14" in output
    rows = {line.split()[0]: line.split()[1:] for line in output.splitlines() if line.strip()}
    assert rows["cpu1"] == ["637.2", "60.0", "871", "896", "7.2"]
    assert rows["gpu"][0] == "99.0" and rows["nnapi"] == ["–"] * 5 and rows["cpu4"] == ["–"] * 5
    assert "nnapi: Though NNAPI delegate is explicitly applied" in output
    # The phone was given the files as they are, and nothing is left on it.
    assert (adb.root / "seen/model.tflite").read_bytes() == b"a model"
    assert (adb.root / "seen/benchmark_model").read_bytes() == make_elf(183)
    assert not adb.left_files
    runs = [words[-1].split() for words in adb.asked if "benchmark_model --graph" in words[-1]]
    assert [words[2] for words in runs] == [
        *("--num_threads=1", "--num_threads=2", "--num_threads=4"),
        *("--use_gpu=true", "--use_nnapi=true"),
    ]
    assert all(words[3:5] == ["--num_runs=70", "--warmup_runs=3"] for words in runs)

    changed = read_record(folder)
    phone = {name: value for name, value in changed.metrics.items() if name.startswith("phone/Pixel_6_Pro/")}
    assert {name for name in phone if name.count("/") == 2} == {
        f"phone/Pixel_6_Pro/{name}_us" for name in ("cpu1", "cpu2", "gpu")
    }
    assert phone["phone/Pixel_6_Pro/cpu2_us"] == 1_200_000 and phone["phone/Pixel_6_Pro/cpu1/init_us"] == 896
    assert changed.notes["phone/Pixel_6_Pro/cpu4_us"] == "the program printed no times"
    facts = changed.environment["phones"]["Pixel_6_Pro"]
    assert (facts["android"], facts["runs"], len(facts["benchmark_model"])) == ("14", 70, 64)
    assert SERIAL not in (folder / "record.json").read_text()
    assert bench.run([str(folder), *arguments, "--threads=1"]) == 0  # a second call replaces the first's
    names = [metric.name for metric in read_record(folder).stages[-1].metrics]
    assert len(names) == len(set(names)) and "phone/Pixel_6_Pro/gpu_us" in names


def test_bench_keeps_what_was_measured_before_a_failure(
    adb: StandInAdb, folder: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    adb.answers["--use_gpu=true"] = (0, "unplugged")
    adb.install()
    with pytest.raises(RunFailed, match=r"does not answer any more: device went away\. Plug it in again"):
        bench.run([str(folder), *arguments])
    metrics = read_record(folder).metrics
    assert "phone/Pixel_6_Pro/cpu1_us" in metrics and "phone/Pixel_6_Pro/gpu_us" not in metrics
    assert "cpu1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("printed", "model"),
    [("WARNING: linker: libx\nPixel \x1b7", "Pixel 7"), ("", "unknown"), ("<b>Gerät</b>", "<b>Gerät</b>")],
)
def test_bench_names_odd_phones(
    printed: str, model: str, adb: StandInAdb, folder: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    adb.properties["ro.product.model"] = printed
    adb.install()
    assert bench.run([str(folder), *arguments, "--threads=1"]) == 0
    assert capsys.readouterr().out.startswith(f"{model}, Android 14\n")
    [(name, facts)] = read_record(folder).environment["phones"].items()
    assert facts["model"] == model and f"phone/{name}/cpu1_us" in read_record(folder).metrics


def test_bench_goes_on_after_a_time_limit(adb: StandInAdb, folder: Path, arguments: list[str]) -> None:
    adb.answers["--num_threads=1"] = (0, "hang")
    adb.install()
    assert bench.run([str(folder), *arguments, "--threads=1,2", "--timeout=0.5"]) == 0
    record = read_record(folder)
    assert record.notes["phone/Pixel_6_Pro/cpu1_us"] == "not done after 0.5 s; --timeout sets another limit"
    assert "phone/Pixel_6_Pro/cpu2_us" in record.metrics
    commands = [words[-1].split() for words in adb.asked]
    [hanging, following] = [n for n, words in enumerate(commands) if "--graph" in " ".join(words)]
    kill = commands[hanging + 1]  # so that it does not compute during the next measurement
    assert kill[:2] == ["pkill", "-f"] and re.search(kill[2].strip("'"), commands[hanging][0])
    assert not re.search(kill[2].strip("'"), " ".join(kill)) and following > hanging + 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--gpu"], "--gpu is about a phone. Name one with --adb SERIAL"),
        (["--adb", "x"], "--adb needs --benchmark-model PATH"),
        (["--adb", "x", "--operators"], "--operators times them on this machine"),
        (["PHONE", "--threads=0"], "--threads=0: give numbers from 1 to 64"),
        (["PHONE", "--threads=1,,2"], "give numbers from 1 to 64, such as --threads 1,2,4"),
        (["PHONE", "--runs=x"], "--runs=x: give a number from 1 to 100,000"),
        (["PHONE", "--timeout=nan"], "--timeout=nan: give seconds"),
        (["PHONE", "--adb=other"], r"--adb=other: there is no such device. Attached: .*, emulator-5554 \(unauthorized"),
        (["PHONE", "--adb-path=/absent/adb"], "--adb-path=/absent/adb cannot be started: No such file"),
        (["PHONE", "--benchmark-model=/absent"], "--benchmark-model=/absent cannot be read"),
    ],
)
def test_bench_refuses(words: list[str], message: str, folder: Path, arguments: list[str]) -> None:
    before = (folder / "record.json").read_bytes()
    words = [*arguments, *words[1:]] if words[0] == "PHONE" else words
    with pytest.raises(BadInput, match=message):
        bench.run([str(folder), *words])
    assert (folder / "record.json").read_bytes() == before


def test_bench_refuses_a_program_for_another_processor(
    adb: StandInAdb, folder: Path, arguments: list[str], tmp_path: Path
) -> None:
    (tmp_path / "it's the program").write_bytes(make_elf(62))
    with pytest.raises(BadInput, match=r"is for x86_64, and .* runs arm64-v8a,armeabi-v7a,armeabi\."):
        bench.run([str(folder), *arguments])
    (tmp_path / "it's the program").write_bytes(make_elf(40))
    text = "/system/bin/sh: /data/local/tmp/x/benchmark_model: not executable: 32-bit ELF file"
    adb.answers = {"--num_threads=1": (126, text)}
    adb.install()
    with pytest.raises(BadInput, match="says: not executable: 32-bit ELF file"):
        bench.run([str(folder), *arguments])
    assert not adb.left_files


@pytest.mark.parametrize(
    ("place", "message"), [("absent", "is neither a folder nor a .tflite"), ("absent.tflite", "is not a file")]
)
def test_bench_refuses_what_is_no_model(place: str, message: str, folder: Path) -> None:
    with pytest.raises(BadInput, match=message):
        bench.run([str(folder / place)])
    record = read_record(folder)
    (folder / "model.tflite").unlink()
    with pytest.raises(BadInput, match=r"model.tflite is missing\. Run the pipeline again"):
        bench.run([str(folder)])
    record.status = "failed"
    record.write(folder)
    with pytest.raises(BadInput, match="is failed and ships no model"):
        bench.run([str(folder)])


def test_bench_measures_here_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = read_record(folder)
    record.environment["host"] = "elsewhere"
    record.stages[-1].metrics += [Metric("latency/p50_us", 10.0), Metric("latency/p95_us", 30.0)]
    record.write(folder)
    (folder / "model.tflite").write_bytes(tiny_models.make_tflite("dense"))
    before = (folder / "record.json").read_bytes()
    assert bench.run([str(folder)]) == 0
    output = capsys.readouterr().out
    row = next(line.split() for line in output.splitlines() if "p50 µs" in line)
    assert row[2] == "10.00" and 0 < float(row[3]) < 1e5
    assert "recorded‡" in output and "recorded: p95 is above twice p50" in output
    assert "Recorded on elsewhere." in output
    assert (folder / "record.json").read_bytes() == before
    assert bench.run([str(folder / "model.tflite"), "--operators"]) == 0
    output = capsys.readouterr().out
    assert "–" in output and "Fully Connected (NC, F32) GEMM" in output and "Recorded" not in output
    assert bench.run([str(folder), "--operators"]) == 0
    operators = read_record(folder).stages[-1].facts["operators"]
    assert {"name", "layer", "us"} == set(operators[0]) and any(operator["layer"] for operator in operators)


def test_phone_times_are_columns_of_a_report(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from lightexp.cli import report

    record = read_record(folder)
    record.stages[-1].metrics.append(Metric("phone/Pixel_6/gpu_us", 1234.56))
    record.write(folder)
    out = folder.parents[1] / "report"
    assert report.run([str(folder), "columns=[accuracy/test,phone/Pixel_6/gpu_us]", f"out={out}"]) == 0
    table = (out / "table.md").read_text()
    assert "| Accuracy test ↑ |" in table and "| Pixel 6 gpu µs ↓ |" in table and "| 1,234.6 |" in table
    with pytest.raises(BadInput, match="columns: no run has measured 'phone/Pixel_6/gpus_us': did you mean"):
        report.run([str(folder), "columns=[phone/Pixel_6/gpus_us]", f"out={out}"])
