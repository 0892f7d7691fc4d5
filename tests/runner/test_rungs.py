"""Training that stops at rungs, continues, and ends with the result of an ordinary run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lightexp.core.protocols import STATE_FILE
from lightexp.core.record import Record
from lightexp.core.store_entry import OWN_FILES
from lightexp.core.training import Rung
from lightexp.runner.compose import compose_settings as compose
from lightexp.runner.execute import STOPPED_FACT
from lightexp.runner.progress import SilentReporter
from lightexp.runner.run import Runner
from tests.tiny_runs import TinyRuns

OVERRIDES = ("model=article_mlp", "pipeline=prune", "pipeline.stages.prune.end=0.25")


def run_to(tiny: TinyRuns, folder: Path, rung: Rung | None) -> tuple[Record, dict[str, bytes]]:
    """Run a pipeline up to a rung; return the record and the files of the last stage."""
    settings = compose([*tiny.list_overrides(*OVERRIDES), "pipeline.stages.prune.epochs=4"])
    record = Runner(SilentReporter()).trial(replace(settings, rung=rung), [], folder, [])
    assert record.status == "done", record.reason
    key = record.stages[-1].key
    entry = tiny.outputs / "store" / "entries" / key[:2] / key
    return record, {path.name: path.read_bytes() for path in entry.iterdir() if path.name not in OWN_FILES}


def test_rungs_give_the_entry_of_an_ordinary_run(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    keys = []
    for number, stopped in enumerate((2, 3, None)):
        record, files = run_to(tiny_runs, tmp_path / str(number), Rung(number, (1, 2)))
        stage = record.stages[-1]
        assert (stage.facts.get(STOPPED_FACT), stage.from_store) == (stopped, False)
        assert len(stage.facts["history"]["loss"]) == (stopped or 4)
        assert (STATE_FILE in files) == (stopped is not None)
        keys.append(stage.key)
    assert len(set(keys)) == 3
    ordinary, _ = run_to(tiny_runs, tmp_path / "ordinary", None)
    assert (ordinary.stages[-1].key, ordinary.stages[-1].from_store) == (keys[-1], True)
    assert STOPPED_FACT not in ordinary.stages[-1].facts
    (tmp_path / "separate").mkdir()
    uninterrupted, expected_files = run_to(TinyRuns(tmp_path / "separate"), tmp_path / "uninterrupted", None)
    assert (uninterrupted.stages[-1].key, uninterrupted.stages[-1].from_store) == (keys[-1], False)
    assert expected_files == files
    # Without the result of rung 0:
    skipped, files = run_to(TinyRuns(tmp_path / "separate"), tmp_path / "skipped", Rung(1, (1, 2)))
    assert skipped.stages[-1].key == keys[1]
