"""`lightexp ablate` with Hydra's launchers: their jobs are its workers."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import yaml

from lightexp.core.record import Record
from tests.command_server import run_command
from tests.run_records import load_records
from tests.search.launchers import use_launcher
from tests.search.studies import PLUGIN, write_arrays

PATIENCE_S = 900  # a busy machine is no failure
FAULTY = "+pipeline.stages.faulty={_target_:faulty.faulty.Faulty,level:%s,mode:%s}"


def make_row(level: float, mode: str = "fine") -> list[str]:
    return [FAULTY % (level, mode), "pipeline.order=[train,faulty]"]


def select_runs(records: list[Record], status: str) -> list[tuple[str, int]]:
    return sorted((r.tags["row"], r.config["seed"]) for r in records if r.status == status)


def test_launcher_jobs_run_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs, path = tmp_path / "outputs", tmp_path / "10_launched.yaml"
    base = [
        "dataset=arrays",
        f"dataset.path={write_arrays(tmp_path)}",
        "model=from_file",
        "pipeline=control",
        "measure=quick",
    ]
    base += [f"model.path={PLUGIN / 'tiny.tflite'}", "plugins=[faulty]"]
    base += ["tracking=none", f"paths.outputs={outputs}"]
    latency = ["+measure.latency={_target_:lightexp.metrics.latency.Latency,warmup:1,runs:20}"]
    rows = {"control": latency, "half": make_row(0.5), "fails": make_row(0.3, "raise")}

    def ablate(name: str, seeds: list[int]) -> subprocess.CompletedProcess[str]:
        values = {"claim": "Nothing.", "control": "control", "base": base, "seeds": seeds, "rows": rows}
        path.write_text(yaml.safe_dump(values, sort_keys=False))
        with use_launcher(name, monkeypatch) as overrides:
            environment = {
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(PLUGIN), os.environ.get("PYTHONPATH", "")]),
            }
            return run_command(["ablate", str(path), *overrides, "workers=2"], tmp_path, environment, PATIENCE_S)

    first = ablate("submitit_local", [0])
    assert first.returncode == 1
    assert "[2/3]" in first.stderr and "lightexp: fails, seed 0: " in first.stderr
    assert first.stderr.count("it broke") == 1
    records = load_records(outputs)[0]
    assert (select_runs(records, "done"), select_runs(records, "failed")) == (
        [("control", 0), ("half", 0)],
        [("fails", 0)],
    )
    assert "latency/p50_us" in next(r for r in records if r.tags["row"] == "control").metrics
    del rows["fails"]
    second = ablate("ray", [0, 1, 2])
    assert second.returncode == 0, second.stderr
    assert select_runs(load_records(outputs)[0], "done") == [
        (name, seed) for name in ("control", "half") for seed in range(3)
    ]
    assert "over 3 seeds" in second.stdout
    assert not list(outputs.glob("ablations/locks/call-*"))  # the commands' folders are removed
