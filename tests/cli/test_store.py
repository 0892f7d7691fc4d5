from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from lightexp.cli.main import main
from lightexp.core.record import RECORD_FILE
from lightexp.core.store import MANIFEST, Store
from lightexp.core.store_gc import list_items
from tests.cli.commands import TINY, Running, lightexp, records
from tests.tiny_runs import TinyRuns

DAY = 86_400.0


@pytest.fixture(scope="module")
def runs(tensorflow: None, tmp_path_factory: pytest.TempPathFactory) -> TinyRuns:
    """A store of its own with the entries of two runs, and one that a run's record has ceased to name."""
    made = TinyRuns(tmp_path_factory.mktemp("store"))
    made.run("pipeline=quantize", "pipeline.stages.quantize.scheme=int8")
    made.run("pipeline=control")
    return made


def store(capsys: pytest.CaptureFixture[str], runs: TinyRuns, *words: str) -> tuple[int, str, str]:
    code = main(["store", *words, f"paths.outputs={runs.outputs}"])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_listing_says_what_is_there_and_whose(runs: TinyRuns, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = records(runs.outputs)
    code, out, err = store(capsys, runs, "ls")
    assert (code, err) == (0, "")
    lines = {line.split()[0]: line for line in out.splitlines() if line[1:13].strip().isalnum()}
    there = list_items(runs.outputs / "store")
    assert {item.key[:12] for item in there} <= set(lines)
    assert f"{len(there)} entries, " in out
    for item in there:
        line = lines[item.key[:12]]
        whose = [record.id for record in (first, second) if item.key in record.keys]
        assert item.kind in line and f" {item.bytes:,} " in line
        assert whose and whose[-1] in line  # calibration sets and teachers too
        assert ("and 1 more" in line) == (len(whose) == 2)
    assert any("calibration" in item.kind for item in there)


def test_a_search_s_trials_name_entries_too(runs: TinyRuns, capsys: pytest.CaptureFixture[str]) -> None:
    trials = runs.outputs / "searches" / "study" / "trials"
    for number in ("0000", "0001"):
        shutil.copytree(runs.outputs / "runs" / records(runs.outputs)[1].id, trials / number)
    _, out, _ = store(capsys, runs, "ls")
    shutil.rmtree(trials.parents[1])
    assert "search study" in out
    assert "search study" not in store(capsys, runs, "ls")[1]


def test_verifying_finds_a_broken_entry_once(runs: TinyRuns, capsys: pytest.CaptureFixture[str]) -> None:
    whole = len(list_items(runs.outputs / "store"))
    assert store(capsys, runs, "verify")[0] == 0
    folder = list_items(runs.outputs / "store")[0].folder
    (folder / "model.tflite").write_bytes(b"cut")
    code, out, _ = store(capsys, runs, "verify")
    assert code == 1
    assert f"broken, set aside: {folder.name}" in out and f"{whole - 1} of {whole} entries are sound" in out
    assert store(capsys, runs, "verify")[0] == 0
    assert "set aside" in store(capsys, runs, "ls")[1]
    assert store(capsys, runs, "gc", "--unreferenced")[1].startswith(folder.name[:12])  # whatever names its key
    assert len(list_items(runs.outputs / "store")) == whole - 1


def test_collecting_by_each_rule(runs: TinyRuns, capsys: pytest.CaptureFixture[str]) -> None:
    root = runs.outputs / "store"
    stray = Store(root)
    entry, _ = stray.ensure("ab" + "0" * 62, "Stray", lambda folder: (folder / "big").write_bytes(bytes(10**6)) and {})
    stray.release()
    before = list_items(root)
    for words in (["--unreferenced"], ["--max-size", "1K"], ["--older-than", "0s"], ["--older-than", "1d"]):
        assert store(capsys, runs, "gc", "--dry-run", *words)[0] == 0
    assert list_items(root) == before
    old = before[0].folder / MANIFEST
    os.utime(old, (0, before[0].used - 3 * DAY))
    assert " 3 d " in store(capsys, runs, "ls")[1]
    code, out, err = store(capsys, runs, "gc", "--older-than", "2d", "--unreferenced")  # both must let it go
    assert (code, err) == (0, "") and out.startswith(f"0 of {len(before)} entries are gone")
    code, out, _ = store(capsys, runs, "gc", "--unreferenced")
    assert out.splitlines()[0].split() == [entry.key[:12], f"{before[-1].bytes:,}", "Stray"]
    assert len(list_items(root)) == len(before) - 1
    code, out, _ = store(capsys, runs, "gc", "--older-than", "2d")
    assert not old.exists() and len(list_items(root)) == len(before) - 2
    size = sum(item.bytes for item in list_items(root))
    first = list_items(root)[0]
    code, out, _ = store(capsys, runs, "gc", "--max-size", str(size - 1))
    assert out.split()[0] == first.key[:12] and len(out.splitlines()) == 2
    (runs.outputs / "runs" / "cut").mkdir()
    (runs.outputs / "runs" / "cut" / RECORD_FILE).write_text("{")
    code, _, err = store(capsys, runs, "gc", "--unreferenced")
    assert code == 2 and "cannot: " in err and "cut" in err and len(err.splitlines()) == 1
    again = runs.run("pipeline=quantize", "pipeline.stages.quantize.scheme=int8")  # what is gone is made again
    assert again.status == "done" and set(again.keys) <= {item.key for item in list_items(root)}


def test_beside_a_run_nothing_that_it_stands_on_goes(tmp_path: Path) -> None:
    words = ["run", *TINY, "tracking=none", "pipeline=prune"]
    running = Running(*words, "pipeline.stages.prune.epochs=100000", cwd=tmp_path)
    root = tmp_path / "outputs" / "store"
    running.until(lambda: len(list_items(root)) == 1)
    (there,) = list_items(root)
    for rule in (["--older-than", "0s"], ["--unreferenced", "--max-size", "0"]):
        done = lightexp("store", "gc", *rule, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("0 of 1 entries are gone") and "(1 in use)" in done.stdout
    assert (there.folder / "model.tflite").exists()
    (record,) = records(tmp_path / "outputs")
    assert there.key in record.keys and record.stages == []  # named before it has ended
    running.kill()
    running.end()
    done = lightexp("store", "gc", "--unreferenced", cwd=tmp_path)
    assert done.stdout.startswith("0 of 1 entries are gone")  # the same command is to go on from there
    done = lightexp("store", "gc", "--older-than", "0s", cwd=tmp_path)
    assert done.stdout.startswith(there.key[:12])
    assert list_items(root) == []
    assert not list((root / "drafts").iterdir())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["store"], "the following arguments are required: COMMAND"),
        (["store", "verfy"], "'verfy' is not a COMMAND of lightexp store: did you mean 'verify'?"),
        (["store", "gc"], "store gc needs a rule: --older-than AGE"),
        (
            ["store", "gc", "--older-then", "3d"],
            "--older-then is not a flag of lightexp store gc: did you mean '--older-than'?",
        ),
        (["store", "gc", "--older-than", "30"], "'30' is no age"),
        (["store", "gc", "--max-size", "2Q"], "'2Q' is no size"),
        (["store", "ls", "nonsense"], "nonsense is not an argument of lightexp store: settings are written name=value"),
        (["store", "ls", "paths.outputs=nowhere"], "nowhere holds no store"),
        (["store", "ls", "sed=1"], "sed is not a setting: did you mean 'seed'?"),
        (["store", "--config-dir", "nowhere", "ls"], "--config-dir=nowhere is not a folder"),
        (["store", "ls", "--config-dir", "nowhere"], "--config-dir=nowhere is not a folder"),
    ],
)
def test_bad_input_is_one_line(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs" / "store").mkdir(parents=True)
    assert main(words) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and len(shown.err.splitlines()) == 1
    assert said in shown.err
