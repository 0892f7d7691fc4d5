"""`lightexp run` in real processes: alone, repeated, in a sweep, side by side, failing."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from lightexp.cli.terminal import Terminal
from lightexp.core.record import Record, parse_record
from tests.cli.commands import TINY, Running, lightexp, mlflow_status, read_records
from tests.synthetic import synthesize_record

RATE = "pipeline.stages.train.learning_rate"
NAN = f"{RATE}=1e+38"
SAME = "pipeline.stages.prune.epochs=${pipeline.stages.train.epochs}"
CHECK = """
import sys
from lightexp.cli.main import main
code = main(sys.argv[1:])
assert "tensorflow" not in sys.modules
sys.exit(code)
"""
SLOW_CLOCK = """
import itertools, sys, types
from lightexp.cli import printing
from lightexp.cli.main import main
printing.time = types.SimpleNamespace(monotonic=itertools.count(0, 3).__next__)
sys.exit(main(sys.argv[1:]))
"""


def list_complaints(result: CompletedProcess[str]) -> list[str]:
    """Return the lines in which the command reports errors."""
    return [line for line in result.stderr.splitlines() if line.startswith("lightexp:")]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[CompletedProcess[str], Path]:
    """A run outside a sweep, from a folder and into a folder with spaces in their names."""
    folder = tmp_path_factory.mktemp("some folder")
    result = lightexp("run", *TINY, SAME, f"{RATE}=0.002", "paths.outputs=all my outputs", cwd=folder)
    assert result.returncode == 0, result.stderr
    return result, folder / "all my outputs"


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> tuple[CompletedProcess[str], Path]:
    """Three jobs in one process, of which the first one fails."""
    folder = tmp_path_factory.mktemp("sweep")
    return lightexp("run", "-m", *TINY, f"{NAN},0.001,0.002", "tracking=none", cwd=folder), folder / "outputs"


def test_run_shows_its_table_files_and_next_commands(alone: tuple[CompletedProcess[str], Path]) -> None:
    result, outputs = alone
    (record,) = read_records(outputs)
    assert record.status == "done"
    folder = outputs / "runs" / record.id
    for text in ("train (control)", "Accuracy test", "80.0%", str(folder / "model.tflite"), record.mlflow["run_id"]):
        assert text in result.stdout
    assert all(f"✓ {name}" in result.stderr for name in ("train", "prune", "quantize"))
    assert "Traceback" not in result.stderr
    assert not list_complaints(result)
    assert f"Again   {record.command}" in result.stdout
    assert "'paths.outputs=all my outputs'" in record.command
    assert f"'{SAME}'" in record.command
    assert mlflow_status(outputs) == {record.mlflow["run_id"]: "FINISHED"}


def test_identical_second_run_loads_no_tensorflow(alone: tuple[CompletedProcess[str], Path]) -> None:
    _, outputs = alone
    arguments = ["run", *TINY, f"{RATE}=0.002", f"paths.outputs={outputs}"]
    ascii_only = ["env", "LC_ALL=C", "PYTHONUTF8=0"]  # a locale that lacks most of what lightexp writes and prints
    result = lightexp(*arguments, cwd=outputs.parent, program=[*ascii_only, sys.executable, "-c", CHECK])
    assert result.returncode == 0, result.stderr
    assert "? quantize" in result.stderr and result.stdout.isascii()
    first, second = read_records(outputs)
    assert [stage.from_store for stage in second.stages] == [True, True, True]
    assert second.metrics == first.metrics
    assert set(mlflow_status(outputs).values()) == {"FINISHED"}


def test_sweep_reports_how_many_configs_it_has_checked(tmp_path: Path) -> None:
    slow = [sys.executable, "-c", SLOW_CLOCK]
    result = lightexp("run", "-m", "seed=1,2", "model=lenet5,nothing", cwd=tmp_path, program=slow)
    assert result.returncode == 2, result.stderr
    first, *_, error = result.stderr.splitlines()
    assert first == "1 configs of the sweep checked ..."
    assert error.startswith("lightexp: ") and "nothing" in error


def test_setting_that_some_jobs_lack_is_named(tmp_path: Path) -> None:
    setting, sweep = "pipeline.stages.prune.epochs", "pipeline=prune,control"
    result = lightexp("run", "-m", sweep, f"{setting}=1", cwd=tmp_path)
    assert result.returncode == 2
    expected = f"lightexp: {setting} is no setting of every job of {sweep}. Leave it out, or those jobs.\n"
    assert result.stderr == expected


def test_sweep_of_too_many_jobs_is_refused(tmp_path: Path) -> None:
    result = lightexp("run", "-m", f"{RATE}=range(0.0001,1,0.0001)", "seed=range(0,1000)", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith(
        "lightexp: -m runs at most 100,000 jobs. Received: 9,999,000. Give fewer values, or"
    )
    assert result.stderr.count("\n") == 1


def test_sweep_goes_on_after_a_failing_job(sweep: tuple[CompletedProcess[str], Path]) -> None:
    result, outputs = sweep
    assert result.returncode == 1, result.stderr
    (line,) = list_complaints(result)
    assert NAN in line
    assert "Traceback" not in result.stderr
    finished = read_records(outputs)
    assert [record.status for record in finished] == ["failed", "done", "done"]
    assert finished[0].reason is not None
    assert finished[0].reason in line
    assert result.stdout.count("learning_rate=") >= 2
    assert [line for line in result.stderr.splitlines() if line.startswith("—")] == [
        f"— {RATE}={rate}" for rate in ("1e+38", "0.001", "0.002")
    ]


def test_sweep_names_its_jobs_and_leaves_its_table(sweep: tuple[CompletedProcess[str], Path]) -> None:
    _, outputs = sweep
    (table,) = outputs.glob("sweeps/*/table.md")
    assert f"| {RATE}=0.002 |" in table.read_text().replace("\\_", "_")
    jobs = [record.tags for record in read_records(outputs)[-2:]]
    assert jobs == [{"sweep": table.parent.name, "job": f"train.learning_rate={rate}"} for rate in ("0.001", "0.002")]


def test_sweep_proposes_its_best_job(
    sweep: tuple[CompletedProcess[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    best, *others = sorted(read_records(sweep[1])[1:], key=lambda record: -record.metrics["accuracy/val"])
    for records in ([best, *others], [*others, best]):
        Terminal().sweep(records, Path("table.md"))
        assert f"such as the best:\nNext    {best.command}\n" in capsys.readouterr().out


def test_sweep_of_many_jobs_shows_the_best(capsys: pytest.CaptureFixture[str]) -> None:
    records = [synthesize_record(seed=seed, lost=0.001 * seed) for seed in range(201)]
    accuracies = [record.metrics["accuracy/val"] for record in records]
    Terminal().sweep(records, Path("sweeps/1/table.md"))
    shown = capsys.readouterr().out
    assert "These are the best 200 of 201 jobs; sweeps/1/table.md lists all.\n" in shown
    seeds = [int(seed) for seed in re.findall(r"seed=(\d+) ", shown)[:200]]
    assert [accuracies[seed] for seed in seeds] == sorted(accuracies, reverse=True)[:200]
    Terminal().sweep(records[:200], Path("sweeps/1/table.md"))
    shown = capsys.readouterr().out
    assert "These are the best" not in shown
    assert [int(seed) for seed in re.findall(r"seed=(\d+) ", shown)[:200]] == list(range(200))


def test_sweep_does_not_look_at_the_test_split(
    sweep: tuple[CompletedProcess[str], Path], alone: tuple[CompletedProcess[str], Path]
) -> None:
    def list_test_metrics(record: Record) -> list[str]:
        return [m.name for stage in record.stages for m in stage.metrics if m.split == "test" or "test" in m.name]

    _, *jobs = read_records(sweep[1])
    assert len(jobs) == 2
    assert not any(list_test_metrics(job) for job in jobs)
    assert all("accuracy/val" in job.metrics for job in jobs)
    assert list_test_metrics(read_records(alone[1])[0])


def test_job_has_the_same_bytes_in_and_out_of_a_sweep(
    sweep: tuple[CompletedProcess[str], Path], alone: tuple[CompletedProcess[str], Path]
) -> None:
    """Compare two processes with empty stores, one of which ran a failed and a finished job before."""
    job, run = read_records(sweep[1])[-1], read_records(alone[1])[0]
    assert job.config["pipeline"]["stages"]["train"]["learning_rate"] == 0.002
    assert not any(stage.from_store for stage in (*job.stages, *run.stages))
    assert [stage.key for stage in job.stages] == [stage.key for stage in run.stages]
    third = (sweep[1] / "runs" / job.id / "model.tflite").read_bytes()
    first = (alone[1] / "runs" / run.id / "model.tflite").read_bytes()
    assert third == first
    second = read_records(sweep[1])[1]
    assert (sweep[1] / "runs" / second.id / "model.tflite").read_bytes() != first  # the learning rate matters


def test_plan_shows_stages_and_makes_nothing(alone: tuple[CompletedProcess[str], Path]) -> None:
    _, outputs = alone
    before = sorted(outputs.rglob("*"))
    arguments = [*TINY, f"{RATE}=0.002", f"paths.outputs={outputs}", "pipeline.stages.quantize.scheme=float16"]
    result = lightexp("run", "--plan", *arguments, cwd=outputs.parent)
    assert (result.returncode, list_complaints(result)) == (0, [])
    assert all(text in result.stdout for text in ("train (control)", "conv2", "sparsity 0.8"))
    assert (result.stdout.count(" there "), result.stdout.count("to be made")) == (2, 1)
    assert sorted(outputs.rglob("*")) == before


def test_augmented_training_repeats_and_differs(alone: tuple[CompletedProcess[str], Path]) -> None:
    _, outputs = alone
    plain = read_records(outputs)[0]
    arguments = ["dataset.augment.shift=1", "dataset.augment.mixup=0.2", f"{RATE}=0.002", "tracking=none"]
    files = []
    for loop in ("graph", "fit"):
        run_outputs = outputs.parent / loop
        loops = [f"pipeline.stages.{stage}.loop={loop}" for stage in ("train", "prune")]
        result = lightexp("run", *TINY, *arguments, *loops, f"paths.outputs={run_outputs}", cwd=outputs.parent)
        assert result.returncode == 0, result.stderr
        (record,) = read_records(run_outputs)
        files.append((run_outputs / "runs" / record.id / "model.tflite").read_bytes())
    assert files[0] == files[1] != (outputs / "runs" / plain.id / "model.tflite").read_bytes()


def test_failing_run_is_one_line_and_a_record(tmp_path: Path, copy_database: Callable[[Path], None]) -> None:
    copy_database(tmp_path / "outputs")
    result = lightexp("run", "--json", *TINY, NAN, cwd=tmp_path)
    assert result.returncode == 1
    (line,) = list_complaints(result)
    assert line.startswith("lightexp: train: ")
    assert "learning_rate" in line
    assert "Traceback" not in result.stderr
    (record,) = read_records(tmp_path / "outputs")
    assert (record.status, f"lightexp: {record.reason}") == ("failed", line)
    assert parse_record(json.loads(result.stdout)) == record
    assert mlflow_status(tmp_path / "outputs") == {record.mlflow["run_id"]: "FAILED"}


def test_simultaneous_runs_make_each_stage_once(tmp_path: Path, copy_database: Callable[[Path], None]) -> None:
    copy_database(tmp_path / "shared")
    os.makedirs(tmp_path / "one")
    arguments = ["run", *TINY, f"paths.outputs={tmp_path / 'shared'}"]
    together = [Running(*arguments, cwd=folder, is_fork=True) for folder in (tmp_path, tmp_path / "one")]
    ends = [running.end() for running in together]
    assert [code for code, _, _ in ends] == [0, 0], ends
    first, second = read_records(tmp_path / "shared")
    assert [a.from_store != b.from_store for a, b in zip(first.stages, second.stages, strict=True)] == [
        True,
        True,
        True,
    ]
    assert first.metrics == second.metrics
    assert set(mlflow_status(tmp_path / "shared").values()) == {"FINISHED"}
    assert len(mlflow_status(tmp_path / "shared")) == 2
    assert not list((tmp_path / "shared" / "store").glob("set-aside/*"))


def test_json_prints_records_alone(sweep: tuple[CompletedProcess[str], Path]) -> None:
    _, outputs = sweep
    for arguments, statuses in ([f"{RATE}=0.002"], ["done"]), (["-m", f"{NAN},0.001"], ["failed", "done"]):
        result = lightexp("run", "--json", *arguments, *TINY, "tracking=none", f"paths.outputs={outputs}", cwd=outputs)
        assert result.returncode == ("failed" in statuses), result.stderr
        records = [parse_record(json.loads(line)) for line in result.stdout.splitlines()]
        assert records == read_records(outputs)[-len(statuses) :]
        assert [record.status for record in records] == statuses
        assert "✓ quantize" in result.stderr
    result = lightexp("run", "--json", "--plan", cwd=outputs)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "lightexp: --json prints a run's record, and --plan runs nothing. Leave one of them out.\n"
