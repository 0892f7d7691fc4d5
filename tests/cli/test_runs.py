"""Real runs in real processes: alone, again, in a sweep, side by side, failing."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from lightexp.core.record import Record
from tests.cli.commands import TINY, Running, lightexp, mlflow_status, records

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


def own_lines(done: CompletedProcess[str]) -> list[str]:
    """What the command complained of."""
    return [line for line in done.stderr.splitlines() if line.startswith("lightexp:")]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[CompletedProcess[str], Path]:
    """A run of its own, from a folder and into a folder with spaces in their names."""
    folder = tmp_path_factory.mktemp("some folder")
    done = lightexp("run", *TINY, SAME, f"{RATE}=0.002", "paths.outputs=all my outputs", cwd=folder)
    assert done.returncode == 0, done.stderr
    return done, folder / "all my outputs"


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> tuple[CompletedProcess[str], Path]:
    """Three jobs in one process; the first one cannot work."""
    folder = tmp_path_factory.mktemp("sweep")
    return lightexp("run", "-m", *TINY, f"{NAN},0.001,0.002", "tracking=none", cwd=folder), folder / "outputs"


def test_a_run_shows_its_table_its_files_and_what_to_type_next(alone: tuple[CompletedProcess[str], Path]) -> None:
    done, outputs = alone
    (record,) = records(outputs)
    assert record.status == "done"
    folder = outputs / "runs" / record.id
    for words in ("train (control)", "Accuracy test", "80.0%", str(folder / "model.tflite"), record.mlflow["run_id"]):
        assert words in done.stdout
    assert all(f"✓ {name}" in done.stderr for name in ("train", "prune", "quantize"))
    assert "Traceback" not in done.stderr
    assert not own_lines(done)
    assert f"Again   {record.command}" in done.stdout
    assert "'paths.outputs=all my outputs'" in record.command
    assert f"'{SAME}'" in record.command
    assert mlflow_status(outputs) == {record.mlflow["run_id"]: "FINISHED"}


def test_an_identical_second_run_loads_no_tensorflow(alone: tuple[CompletedProcess[str], Path]) -> None:
    _, outputs = alone
    words = ["run", *TINY, f"{RATE}=0.002", f"paths.outputs={outputs}"]
    done = lightexp(*words, cwd=outputs.parent, program=[sys.executable, "-c", CHECK])
    assert done.returncode == 0, done.stderr
    first, second = records(outputs)
    assert [stage.from_store for stage in second.stages] == [True, True, True]
    assert second.metrics == first.metrics
    assert set(mlflow_status(outputs).values()) == {"FINISHED"}


def test_one_failing_job_of_a_sweep_does_not_stop_the_others(sweep: tuple[CompletedProcess[str], Path]) -> None:
    done, outputs = sweep
    assert done.returncode == 1, done.stderr
    (line,) = own_lines(done)
    assert NAN in line
    assert "Traceback" not in done.stderr
    found = records(outputs)
    assert [record.status for record in found] == ["failed", "done", "done"]
    assert found[0].reason is not None
    assert found[0].reason in line
    assert done.stdout.count("learning_rate=") >= 2


def test_the_jobs_of_a_sweep_do_not_look_at_the_test_split(
    sweep: tuple[CompletedProcess[str], Path], alone: tuple[CompletedProcess[str], Path]
) -> None:
    def on_test(record: Record) -> list[str]:
        return [f.name for stage in record.stages for f in stage.metrics if f.split == "test" or "test" in f.name]

    _, *jobs = records(sweep[1])
    assert len(jobs) == 2
    assert not any(on_test(job) for job in jobs)
    assert all("accuracy/val" in job.metrics for job in jobs)
    assert on_test(records(alone[1])[0])


def test_a_job_gives_the_same_bytes_alone_and_as_the_third_of_a_process(
    sweep: tuple[CompletedProcess[str], Path], alone: tuple[CompletedProcess[str], Path]
) -> None:
    """Two processes, two empty stores; one of them had a failed and a finished job before."""
    job, run = records(sweep[1])[-1], records(alone[1])[0]
    assert job.config["pipeline"]["stages"]["train"]["learning_rate"] == 0.002
    assert not any(stage.from_store for stage in (*job.stages, *run.stages))
    assert [stage.key for stage in job.stages] == [stage.key for stage in run.stages]
    third, first = ((o / "runs" / r.id / "model.tflite").read_bytes() for o, r in ((sweep[1], job), (alone[1], run)))
    assert third == first
    second = records(sweep[1])[1]
    assert (sweep[1] / "runs" / second.id / "model.tflite").read_bytes() != first  # the rate does matter


def test_a_plan_shows_stages_and_store_hits_and_makes_nothing(alone: tuple[CompletedProcess[str], Path]) -> None:
    _, outputs = alone
    before = sorted(outputs.rglob("*"))
    words = [*TINY, f"{RATE}=0.002", f"paths.outputs={outputs}", "pipeline.stages.quantize.scheme=float16"]
    done = lightexp("run", "--plan", *words, cwd=outputs.parent)
    assert (done.returncode, own_lines(done)) == (0, [])
    assert [word in done.stdout for word in ("train (control)", "conv2", "sparsity 0.8")] == [True] * 3
    assert (done.stdout.count(" there "), done.stdout.count("to be made")) == (2, 1)
    assert sorted(outputs.rglob("*")) == before


def test_augmented_training_repeats_and_is_another_result(alone: tuple[CompletedProcess[str], Path]) -> None:
    _, outputs = alone
    plain = records(outputs)[0]
    words = ["dataset.augment.shift=1", "dataset.augment.mixup=0.2", f"{RATE}=0.002", "tracking=none"]
    files = []
    for loop in ("graph", "fit"):
        place = outputs.parent / loop
        loops = [f"pipeline.stages.{stage}.loop={loop}" for stage in ("train", "prune")]
        done = lightexp("run", *TINY, *words, *loops, f"paths.outputs={place}", cwd=outputs.parent)
        assert done.returncode == 0, done.stderr
        (record,) = records(place)
        files.append((place / "runs" / record.id / "model.tflite").read_bytes())
    assert files[0] == files[1] != (outputs / "runs" / plain.id / "model.tflite").read_bytes()


def test_a_run_that_fails_in_a_stage_is_one_line_and_a_record(tmp_path: Path) -> None:
    done = lightexp("run", *TINY, NAN, cwd=tmp_path)
    assert done.returncode == 1
    (line,) = own_lines(done)
    assert line.startswith("lightexp: train: ")
    assert "learning_rate" in line
    assert "Traceback" not in done.stderr
    (record,) = records(tmp_path / "outputs")
    assert (record.status, f"lightexp: {record.reason}") == ("failed", line)
    assert mlflow_status(tmp_path / "outputs") == {record.mlflow["run_id"]: "FAILED"}


def test_two_processes_started_together_make_each_stage_once(tmp_path: Path) -> None:
    os.makedirs(tmp_path / "one")
    words = ["run", *TINY, f"paths.outputs={tmp_path / 'shared'}"]
    together = [Running(*words, cwd=tmp_path), Running(*words, cwd=tmp_path / "one")]
    ends = [running.end() for running in together]
    assert [code for code, _, _ in ends] == [0, 0], ends
    one, other = records(tmp_path / "shared")
    assert [a.from_store != b.from_store for a, b in zip(one.stages, other.stages, strict=True)] == [True, True, True]
    assert one.metrics == other.metrics
    assert set(mlflow_status(tmp_path / "shared").values()) == {"FINISHED"}
    assert len(mlflow_status(tmp_path / "shared")) == 2
    assert not list((tmp_path / "shared" / "store").glob("set-aside/*"))
