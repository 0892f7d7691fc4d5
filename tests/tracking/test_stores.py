"""Addresses of MLflow's stores, and the first use of one by many processes."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from lightexp.tracking import stores
from tests.tracking.helpers import ROOT


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        (None, "sqlite:////data/a%3Fb/mlflow.db"),
        ("sqlite:///runs.db", "sqlite:////here/runs.db"),
        ("sqlite:////there/runs.db", "sqlite:////there/runs.db"),
        ("http://host:5000", "http://host:5000"),
    ],
)
def test_resolve_uri_makes_paths_absolute(uri, expected, monkeypatch):
    monkeypatch.setattr(Path, "cwd", lambda: Path("/here"))
    assert stores.resolve_uri(uri, Path("/data/a?b")) == expected


def test_two_processes_create_one_store(tmp_path):
    script = """
        import sys, time
        from pathlib import Path
        from lightexp.core.record import Record
        from lightexp.tracking.mlflow import Mlflow
        from lightexp.tracking.stores import import_mlflow
        outputs, name = Path(sys.argv[1]), sys.argv[2]
        import_mlflow()
        Path(name).touch()
        while len(list(Path().glob("ready?"))) < 2:
            time.sleep(0.001)
        folder = Path(name + ".run")
        folder.mkdir()
        Record(folder.name, name, "lightexp run", {"a": 1}, [], {}, 1.7e9, status="done").write(folder)
        result = Mlflow().open_mirror(outputs, lambda message: sys.exit(message)).sync(folder)
        print(result.place["run_id"])
    """
    outputs = tmp_path / "o ut's #1?&%41é"  # as awkward as a folder's name may be
    outputs.mkdir()
    (outputs / "mlflow.db.draft").write_text("left by a process that was killed during the migration")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(script), str(outputs), f"ready{n}"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for n in range(2)
    ]
    results = [process.communicate(timeout=100) for process in processes]
    assert [errors for _, errors in results] == ["", ""]
    assert [process.returncode for process in processes] == [0, 0]
    assert (outputs / "mlflow.db").is_file()
    client = stores.import_mlflow().MlflowClient(tracking_uri=stores.resolve_uri(None, outputs))
    experiment = client.get_experiment_by_name("lightexp")
    run_ids = {run.info.run_id for run in client.search_runs([experiment.experiment_id])}
    assert run_ids == {output.strip() for output, _ in results}
