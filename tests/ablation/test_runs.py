"""`lightexp ablate` with real processes on a tiny data set: what runs, what does not run again, what is timed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightexp.core.record import Record
from lightexp.core.records import load_records
from tests.command_server import run_command
from tests.tiny_runs import TinyRuns

PATIENCE = 900  # seconds; a busy machine is no failure
COMMAND = [str(Path(sys.executable).parent / "lightexp"), "ablate"]


@dataclass
class Story:
    """One ablation, called several times.

    Attributes:
        page: Whether the report is there after the first call.
        plan: What `--plan` says before anything has run, and after all has.
        calls: Exit code and what was said, of: all rows in two processes; the same again; with a row more,
            interrupted; that again.
        records: After each call.
        stages: Store entries by kind at the end.
    """

    plan: list[str]
    page: bool
    calls: list[tuple[int, str]]
    records: list[list[Record]]
    stages: list[str]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    folder = tmp_path_factory.mktemp("ablate")
    tiny = TinyRuns(folder)
    path = folder / "09_tiny.yaml"
    base = ["dataset=arrays", f"dataset.path={tiny.arrays}", f"paths.outputs={tiny.outputs}", "tracking=none"]
    base += ["model=lenet_300_100", "model.width=0.1", "pipeline=prune_quantize", "measure.latency.runs=20"]
    base += ["pipeline.stages.train.epochs=1", "pipeline.stages.prune.epochs=1"]
    values: dict[str, Any] = {
        "claim": "Nothing.",
        "control": "control",
        "seeds": [0, 1],
        "base": base,
        "rows": {
            "control": ["pipeline=control"],
            "both": ["pipeline.stages.quantize.scheme=float16"],
            "fails": ["pipeline=control", "pipeline.stages.train.learning_rate=1e30", "pipeline.stages.train.epochs=5"],
            "order": {"orders": ["prune", "quantize"], "base": ["pipeline.stages.quantize.scheme=float16"]},
        },
    }

    def write() -> None:
        path.write_text(yaml.safe_dump(values, sort_keys=False))

    def ablate(*words: str) -> subprocess.CompletedProcess[str]:
        return run_command(["ablate", str(path), *words], folder, os.environ, PATIENCE)

    def keep(code: int, said: str) -> None:
        calls.append((code, said))
        records.append(load_records(tiny.outputs)[0])

    write()
    calls: list[tuple[int, str]] = []
    records: list[list[Record]] = []
    plans = [ablate("--plan").stdout]
    done = ablate("workers=2")
    keep(done.returncode, done.stdout + done.stderr)
    page = (folder / "results" / "09_tiny" / "index.html").is_file()
    del values["rows"]["fails"]
    write()
    done = ablate()
    keep(done.returncode, done.stdout + done.stderr)
    values["rows"]["long"] = ["pipeline=prune", "pipeline.stages.prune.epochs=20000"]
    values["seeds"] = [0]
    write()
    before = len(records[-1])
    process = subprocess.Popen([*COMMAND, str(path)], cwd=folder, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + PATIENCE
    while not list(tiny.outputs.glob("store/drafts/*")) and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)  # to the parent alone: it stops its workers
    said = process.communicate(timeout=PATIENCE)[1]
    keep(process.returncode, said)
    assert len(records[-1]) == before + 1
    values["rows"]["long"] = ["pipeline=prune", "pipeline.stages.prune.epochs=2"]
    write()
    done = ablate()
    keep(done.returncode, done.stdout + done.stderr)
    plans.append(ablate("--plan").stdout)
    manifests = [json.loads(p.read_text()) for p in tiny.outputs.glob("store/entries/*/*/manifest.json")]
    return Story(plans, page, calls, records, sorted(m["kind"] for m in manifests))


def named(records: list[Record], status: str = "done") -> list[tuple[str, int]]:
    return sorted((r.tags["row"], r.config["seed"]) for r in records if r.status == status)


def test_the_plan_says_what_is_there_and_what_is_shared(story) -> None:
    assert "6 runs: 0 are done, 6 to do, 6 to be timed." in story.plan[0]
    assert "Stages to make: 8, 2 of them for several rows; in the store: 0." in story.plan[0]
    assert "8 stages have no earlier record" in story.plan[0]
    assert "refused: pipeline.order: 'prune' cannot follow 'quantize'" in story.plan[0]
    assert "3 runs: 3 are done, 0 to do, 0 to be timed." in story.plan[1]


def test_every_row_runs_with_every_seed_and_a_failing_one_is_reported(story) -> None:
    code, said = story.calls[0]
    assert code == 1
    assert named(story.records[0]) == [("both", 0), ("both", 1), ("control", 0), ("control", 1)]
    assert named(story.records[0], "failed") == [("fails", 0), ("fails", 1)]
    assert said.count("lightexp: fails, seed") == 2
    assert "Traceback" not in said
    assert story.page
    assert "'fails' has no finished run" in said
    assert all(record.tags["ablation"] == "09_tiny" for record in story.records[0])
    # Whoever needed it took the shared stage from the store.
    assert all(r.stages[0].from_store for r in story.records[0] if r.status == "done")


def test_rows_are_tested_and_timed_at_the_end(story) -> None:
    for record in (r for r in story.records[0] if r.status == "done"):
        for stage in record.stages:
            names = [figure.name for figure in stage.metrics]
            assert len(set(names)) == len(names)
            assert {"accuracy/test", "latency/p50_us", "size/file_bytes", "time/train_s"} <= set(names)
        assert record.environment["timed_on"] == record.environment["host"]
        assert record.environment["threads"] == 1 or record.environment["cores"] > 2
    said = story.calls[0][1]
    assert said.rindex("/6] ") < said.index("Measuring the latency of 4 runs")


def test_what_is_there_does_not_run_again(story) -> None:
    code, said = story.calls[1]
    assert code == 0
    assert "4 of 4 runs are done, 0 to do" in said
    assert [r.id for r in story.records[1]] == [r.id for r in story.records[0]]


def test_interrupted_work_goes_on_where_it_was(story) -> None:
    code, said = story.calls[2]
    assert code == 130
    assert "Interrupted" in said
    assert story.records[2][-1].status == "interrupted"
    code, said = story.calls[3]
    assert code == 0, said
    assert "2 of 3 runs are done, 1 to do" in said
    assert len(story.records[3]) == len(story.records[2]) + 1
    assert story.records[3][-1].tags["row"] == "long"
    # Two seeds trained and pruned once each, then quantised; one more pruned.
    assert story.stages == ["Prune prune"] * 3 + ["Quantize quantize"] * 2 + ["Train train"] * 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere.yaml"], "nowhere.yaml does not exist"),
        (["x.yaml", "--paln"], "--paln is not a flag of lightexp ablate: did you mean '--plan'?"),
        (["x.yaml", "workers=0"], "workers must be a whole number from 1. Received: workers=0."),
        ([], ""),
    ],
)
def test_bad_input_is_one_line(words, said, tmp_path) -> None:
    done = run_command(["ablate", *words], tmp_path, os.environ, PATIENCE)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == bool(said)
