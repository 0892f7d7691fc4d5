"""Reading the records of many runs, and the table of them."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

import lightexp
from lightexp.core.errors import BadInput
from lightexp.core.protocols import Metric
from lightexp.core.record import RECORD_FILE, Record, StageRecord
from lightexp.core.records import FIXED_COLUMNS, list_study_folders
from tests.run_records import load_records


def write_record(outputs: Path, run: str, started: float, **changes: object) -> Record:
    """Write a run's record below an outputs folder."""
    metrics = [Metric("accuracy/val", 0.5, "", "max", "val"), Metric("size/file_bytes", 100, "bytes", "min")]
    values = {
        "id": run,
        "name": "lenet5 digits train-prune",
        "command": "lightexp run",
        "config": {"seed": 1, "pipeline": {"stages": {"prune": {"sparsity": 0.8}}, "order": ["train", "prune"]}},
        "varied": [],
        "environment": {},
        "started": started,
        "status": "done",
        "ended": started + 2,
        "stages": [StageRecord("prune", "k" * 64, False, 1.0, metrics)],
    }
    record = Record(**{**values, **changes})  # type: ignore[arg-type]
    folder = outputs / "runs" / run
    folder.mkdir(parents=True)
    record.write(folder)
    return record


def test_load_records_from_three_places(tmp_path: Path) -> None:
    later, first = write_record(tmp_path, "a", 20.0), write_record(tmp_path, "b", 10.0)
    runs = tmp_path / "runs"
    for name, text in {"cut": '{"id": "cu', "other": '{"format": 99}', "empty": "", "binary": "\x00\x01"}.items():
        (runs / name).mkdir()
        (runs / name / RECORD_FILE).write_text(text)
    (runs / "none").mkdir()  # killed before it wrote a record
    (runs / ".live").mkdir()
    (runs / "stray.txt").write_text("")
    for where in (tmp_path, str(runs)):
        sound, messages = load_records(where)
        assert sound == [first, later]
        assert [line.split()[0] for line in messages] == [
            str(runs / name / RECORD_FILE) for name in ("binary", "cut", "empty", "other")
        ]
        assert "format 99" in messages[3]
    assert load_records(runs / "a") == ([later], [])
    sound, messages = load_records(runs / "cut")
    assert (sound, len(messages)) == ([], 1)
    with pytest.warns(UserWarning, match="is not a record|format 99"):
        assert list(lightexp.records(tmp_path)["id"]) == ["b", "a"]


def test_load_records_refuses_a_missing_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in ("missing", "file"):
        with pytest.raises(BadInput, match="is not a folder"):
            load_records(tmp_path / place)
    assert load_records(tmp_path) == ([], [])
    with pytest.warns(UserWarning, match=f"no run and no trial is recorded in {tmp_path}"):
        table = lightexp.records(tmp_path)
    assert (len(table), list(table.columns)) == (0, list(FIXED_COLUMNS))


def test_list_study_folders_hides_no_unreadable_study(tmp_path: Path) -> None:
    assert list_study_folders(tmp_path) == []
    searches = tmp_path / "searches"
    (searches / "a" / "trials").mkdir(parents=True)
    (searches / "without").mkdir()
    (searches / "stray.txt").write_text("")
    (searches / "loop").symlink_to("loop")  # like a folder without permission
    assert list_study_folders(tmp_path) == [searches / "a", searches / "loop"]
    searches.rename(tmp_path / "moved")
    searches.symlink_to("searches")
    with pytest.raises(BadInput, match="searches cannot be read: Too many levels of symbolic links"):
        list_study_folders(tmp_path)


def test_build_frame_has_settings_and_metrics(tmp_path: Path) -> None:
    write_record(tmp_path, "a", 10.0)
    config = {"seed": 2, "pipeline": {"stages": {"prune": {"sparsity": 0.9}}}, "dataset": {"path": "x.npz"}}
    varied = ["seed=2", "pipeline.stages.prune.sparsity=0.9", "~stage@pipeline.stages.quantize", "model=lenet5"]
    write_record(tmp_path, "b", 20.0, config=config, varied=[*varied, "dataset.path=x.npz"])
    write_record(tmp_path, "c", 30.0, status="running", ended=None, stages=[], name="odd")
    table = lightexp.records(tmp_path)
    settings = ["pipeline.stages.prune.sparsity", "dataset.path"]
    assert list(table.columns) == [*FIXED_COLUMNS, *settings, "accuracy/val", "size/file_bytes"]
    assert list(table["seed"]) == [1, 2, 1]
    assert list(table["pipeline.stages.prune.sparsity"]) == [0.8, 0.9, 0.8]  # other runs have a value too
    assert list(table["dataset.path"].isna()) == [True, False, True]
    assert list(table["pipeline"]) == ["train-prune", "train-prune", ""]
    assert list(table["model"]) == ["lenet5", "lenet5", "odd"]
    assert table["seconds"][0] == 2 and math.isnan(table["seconds"][2])
    assert table["size/file_bytes"][1] == 100 and math.isnan(table["accuracy/val"][2])
    assert str(table["started"][1]) == "1970-01-01 00:00:20+00:00"
    assert table["varied"][1] == " ".join([*varied, "dataset.path=x.npz"])


def test_read_folders_imports_no_pandas(tmp_path: Path) -> None:
    write_record(tmp_path, "a", 10.0)
    code = (
        "import sys, json; from lightexp.core.records import list_run_folders, read_folders\n"
        "n = len(read_folders(list_run_folders(sys.argv[1]))[0])\n"
        "print(json.dumps([n, [m for m in ('pandas', 'tensorflow', 'mlflow') if m in sys.modules]]))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [1, []]
