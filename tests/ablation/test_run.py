"""`lightexp ablate` with real processes on a tiny data set: what runs, what does not run again, what is timed."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightexp.ablation.run import AblationPool
from lightexp.ablation.runs import Backlog
from lightexp.cli.main import main
from lightexp.core.protocols import TFLITE
from lightexp.core.record import Record
from tests.command_server import run_command, start_command
from tests.dead_runs import write_dead_run
from tests.run_records import load_records
from tests.tiny_runs import TinyRuns

PATIENCE_S = 900  # a busy machine is no failure


@dataclass
class Story:
    """One ablation, run several times.

    Attributes:
        plans: Output of `--plan` before anything has run, after everything has, and with a record of two threads.
        has_page: Whether the report exists after the first call.
        calls: Exit code and output of five calls: all rows in two processes; the same again; with another row,
            interrupted; that again; some rows in one process, into other outputs.
        records: The records after each call.
        stages: Kinds of the store's entries at the end.
        files: Bytes of the shipped files by row, of the first call and of the last.
    """

    plans: list[str]
    has_page: bool
    calls: list[tuple[int, str]]
    records: list[list[Record]]
    stages: list[str]
    files: list[dict[str, bytes]]


class AblationFolder:
    """A folder with an ablation's file, and the commands that run it."""

    def __init__(self, folder: Path) -> None:
        """Write the ablation's file and its data set."""
        self.folder, self.path = folder, folder / "09_tiny.yaml"
        tiny = TinyRuns(folder)
        self.outputs = tiny.outputs
        self.calls: list[tuple[int, str]] = []
        self.records: list[list[Record]] = []
        base = ["dataset=arrays", f"dataset.path={tiny.arrays}", f"paths.outputs={tiny.outputs}", "tracking=none"]
        base += ["model=lenet_300_100", "model.width=0.1", "pipeline=prune_quantize", "measure.latency.runs=20"]
        base += ["pipeline.stages.train.epochs=1", "pipeline.stages.prune.epochs=1"]
        diverging = ["pipeline.stages.train.learning_rate=1e30", "pipeline.stages.train.epochs=5"]
        half = ["pipeline.stages.quantize.scheme=float16"]
        self.values: dict[str, Any] = {
            "claim": "Nothing.",
            "control": "control",
            "seeds": [0, 1],
            "figures": ["front"],
            "base": base,
            "rows": {
                "control": ["pipeline=control"],
                "both": half,
                "fails": ["pipeline=control", *diverging],
                "order": {"orders": ["prune", "quantize"], "base": half},
            },
        }
        self.write()

    def write(self) -> None:
        """Write the ablation's file as `values` are now."""
        self.path.write_text(yaml.safe_dump(self.values, sort_keys=False))

    def plan(self) -> str:
        """Return the output of `--plan`."""
        return run_command(["ablate", str(self.path), "--plan"], self.folder, os.environ, PATIENCE_S).stdout

    def run(self, *arguments: str) -> None:
        """Run the ablation to its end, and keep the exit code, the output and the records."""
        done = run_command(["ablate", str(self.path), *arguments], self.folder, os.environ, PATIENCE_S)
        self._keep(done.returncode, done.stdout + done.stderr)

    def read_files(self, outputs: Path) -> dict[str, bytes]:
        """Return the shipped files of the rows `control` and `both` with seed 0."""
        records = [r for r in load_records(outputs)[0] if r.tags["row"] in ("control", "both")]
        return {
            r.tags["row"]: (outputs / "runs" / r.id / TFLITE).read_bytes() for r in records if r.config["seed"] == 0
        }

    def interrupt(self) -> None:
        """Run the ablation, send SIGTERM to the command alone while a stage is being made, and keep the outcome."""
        process = start_command(["ablate", str(self.path)], self.folder, os.environ, is_fork=True)
        end = time.monotonic() + PATIENCE_S
        while not list(self.outputs.glob("store/drafts/*")) and time.monotonic() < end:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        errors = process.communicate(timeout=PATIENCE_S)[1]
        self._keep(process.returncode, errors)

    def _keep(self, code: int, output: str) -> None:
        self.calls.append((code, output))
        self.records.append(load_records(self.outputs)[0])


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    ablation = AblationFolder(tmp_path_factory.mktemp("ablate"))
    plans = [ablation.plan()]
    ablation.run("workers=2")
    has_page = (ablation.folder / "results" / "09_tiny" / "index.html").is_file()
    del ablation.values["rows"]["fails"]
    ablation.write()
    write_dead_run(ablation.outputs / "runs", "dead", tags={"row": "none"})
    ablation.run()
    ablation.values["rows"]["long"] = ["pipeline=prune", "pipeline.stages.prune.epochs=20000"]
    ablation.values["seeds"] = [0]
    ablation.write()
    count = len(ablation.records[-1])
    ablation.interrupt()
    assert len(ablation.records[-1]) == count + 1
    ablation.values["rows"]["long"] = ["pipeline=prune", "pipeline.stages.prune.epochs=2"]
    ablation.write()
    ablation.run()
    plans.append(ablation.plan())
    record = next(r for r in ablation.records[-1] if r.tags["row"] == "both")
    record.environment["threads"] = 2
    record.write(ablation.outputs / "runs" / record.id)
    ablation.path = ablation.path.rename(ablation.path.with_name("renamed.yaml"))
    plans.append(ablation.plan())
    manifests = [json.loads(p.read_text()) for p in ablation.outputs.glob("store/entries/*/*/manifest.json")]
    files = [ablation.read_files(ablation.outputs)]
    ablation.values["rows"] = {name: ablation.values["rows"][name] for name in ("control", "both")}
    ablation.write()
    ablation.run("paths.outputs=alone", "workers=1")
    files.append(ablation.read_files(ablation.folder / "alone"))
    return Story(plans, has_page, ablation.calls, ablation.records, sorted(m["kind"] for m in manifests), files)


def select_runs(records: list[Record], status: str = "done") -> list[tuple[str, int]]:
    """Row and seed of the records with a status."""
    return sorted((r.tags["row"], r.config["seed"]) for r in records if r.status == status)


def test_plan_shows_what_is_done_and_what_is_shared(story: Story) -> None:
    assert "6 runs: 0 are done, 6 to do, 6 to be timed." in story.plans[0]
    assert "Stages to make: 8, 2 of them for several rows; in the store: 0." in story.plans[0]
    assert "8 stages have no earlier record" in story.plans[0]
    assert "refused: pipeline.order: 'prune' cannot follow 'quantize'" in story.plans[0]
    assert "3 runs: 3 are done, 0 to do, 0 to be timed." in story.plans[1]


def test_renamed_file_finds_its_runs(story: Story) -> None:
    assert "3 runs: 3 are done, 0 to do, 0 to be timed." in story.plans[2]


def test_number_of_workers_changes_no_byte(story: Story) -> None:
    assert story.calls[4][0] == 0, story.calls[4][1]
    assert story.files[0].keys() == {"control", "both"}
    assert story.files[0] == story.files[1]


def test_runs_with_other_threads_are_named(story: Story) -> None:
    assert "computed with" not in story.plans[1]
    expected = "1 of the finished runs computed with runtime.threads=2, and would now with 1: their files may differ"
    assert expected in story.plans[2]


def test_every_row_runs_and_a_failure_is_reported(story: Story) -> None:
    code, output = story.calls[0]
    assert code == 1
    assert select_runs(story.records[0]) == [("both", 0), ("both", 1), ("control", 0), ("control", 1)]
    assert select_runs(story.records[0], "failed") == [("fails", 0), ("fails", 1)]
    assert output.count("lightexp: fails, seed") == 2
    assert "Traceback" not in output
    assert not re.search(r"threads?, seed \d, into ", output)  # folders are shown when their runs have ended
    assert story.has_page
    assert "'fails' has no finished run" in output
    assert all(record.tags["ablation"] == "09_tiny" for record in story.records[0])
    # Every run that needs the shared stage loads it from the store.
    assert all(r.stages[0].from_store for r in story.records[0] if r.status == "done")


def test_rows_are_tested_and_timed_at_the_end(story: Story) -> None:
    for record in (r for r in story.records[0] if r.status == "done"):
        for stage in record.stages:
            names = [metric.name for metric in stage.metrics]
            assert len(set(names)) == len(names)
            assert {"accuracy/test", "latency/p50_us", "size/file_bytes", "time/train_s"} <= set(names)
        assert record.environment["timed_on"] == record.environment["host"]
        assert record.environment["threads"] == 1
    output = story.calls[0][1]
    assert output.rindex("/6] ") < output.index("Measuring the latency of 4 runs")


def test_finished_runs_are_not_repeated(story: Story) -> None:
    code, output = story.calls[1]
    assert code == 0
    assert "4 of 4 runs are done, 0 to do" in output
    dead, *runs = story.records[1]
    assert [r.id for r in runs] == [r.id for r in story.records[0]]
    assert (dead.id, dead.status) == ("dead", "killed")


def test_interrupted_ablation_continues(story: Story) -> None:
    code, output = story.calls[2]
    assert code == 130
    assert "Interrupted" in output
    assert story.records[2][-1].status == "interrupted"
    code, output = story.calls[3]
    assert code == 0, output
    assert "2 of 3 runs are done, 1 to do" in output
    assert len(story.records[3]) == len(story.records[2]) + 1
    assert story.records[3][-1].tags["row"] == "long"
    # Two seeds are trained and pruned once each, then quantised; one more is pruned.
    assert story.stages == ["Prune prune"] * 3 + ["Quantize quantize"] * 2 + ["Train train"] * 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.yaml"], "nowhere.yaml does not exist"),
        (["x.yaml", "--paln"], "--paln is not a flag of lightexp ablate: did you mean '--plan'?"),
        (["x.yaml", "workers=0"], "workers must be a whole number from 1. Received: workers=0."),
        ([], ""),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    finished = run_command(["ablate", *arguments], tmp_path, os.environ, PATIENCE_S)
    assert finished.returncode == 2
    assert message in finished.stderr
    assert len(finished.stderr.splitlines()) == bool(message)


def test_interrupt_closes_what_mlflow_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ablation, ends = AblationFolder(tmp_path), list[tuple[str, str]]()

    class Tracker:
        def end(self, status: str, *, call: str) -> None:
            ends.append((status, call))

    def interrupt(backlog: Backlog, pool: AblationPool) -> None:
        ends.append(("calls", pool.call))
        raise KeyboardInterrupt

    monkeypatch.setattr("lightexp.cli.ablate._start_tracker", lambda spec, settings: Tracker())
    monkeypatch.setattr("lightexp.cli.ablate._run_backlog", interrupt)
    assert main(["ablate", str(ablation.path)]) == 130
    assert ends == [("calls", ends[0][1]), ("KILLED", ends[0][1])]
