"""`lightexp store`: listing, verifying and removing entries."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lightexp.cli.main import main
from lightexp.core import store_gc
from lightexp.core.record import RECORD_FILE
from lightexp.core.store import Store
from lightexp.core.store_entry import MANIFEST, MANIFEST_DIGEST
from lightexp.core.store_gc import StoreItem, list_items, verify_item
from tests.cli.commands import TINY, Running, lightexp, read_records
from tests.tiny_runs import TinyRuns, alter_entry

DAY = 86_400.0


@pytest.fixture(scope="module")
def runs(tensorflow: None, tmp_path_factory: pytest.TempPathFactory) -> TinyRuns:
    """A store with the entries of two runs."""
    tiny = TinyRuns(tmp_path_factory.mktemp("store"))
    tiny.run("pipeline=quantize", "pipeline.stages.quantize.scheme=int8")
    tiny.run("pipeline=control")
    return tiny


def run_store(capfd: pytest.CaptureFixture[str], runs: TinyRuns, *argv: str) -> tuple[int, str, str]:
    """Run `lightexp store`, and return exit code, output and errors."""
    code = main(["store", *argv, f"paths.outputs={runs.outputs}"])
    captured = capfd.readouterr()
    return code, captured.out, captured.err


def test_ls_names_entries_and_their_runs(runs: TinyRuns, capfd: pytest.CaptureFixture[str]) -> None:
    first, second = read_records(runs.outputs)
    code, out, err = run_store(capfd, runs, "ls")
    assert (code, err) == (0, "")
    lines = {line.split()[0]: line for line in out.splitlines() if line[1:13].strip().isalnum()}
    items = list_items(runs.outputs / "store")
    assert {item.key[:12] for item in items} <= set(lines)
    assert f"{len(items)} entries, " in out
    for item in items:
        line = lines[item.key[:12]]
        run_ids = [record.id for record in (first, second) if item.key in record.keys]
        assert item.kind in line and f" {item.bytes:,} " in line
        assert run_ids and run_ids[-1] in line  # calibration sets and teachers too
        assert ("and 1 more" in line) == (len(run_ids) == 2)
    assert any("calibration" in item.kind for item in items)


def test_ls_names_searches(runs: TinyRuns, capfd: pytest.CaptureFixture[str]) -> None:
    trials = runs.outputs / "searches" / "study" / "trials"
    for number in ("0000", "0001"):
        shutil.copytree(runs.outputs / "runs" / read_records(runs.outputs)[1].id, trials / number)
    _, out, _ = run_store(capfd, runs, "ls")
    shutil.rmtree(trials.parents[1])
    assert "search study" in out
    assert "search study" not in run_store(capfd, runs, "ls")[1]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> TinyRuns:
    """A store of 40 entries, of which the first is the largest, and a run that names the last."""
    tiny = TinyRuns(tmp_path_factory.mktemp("many"))
    store = Store(tiny.outputs / "store")
    for number in range(40):
        size = 5000 if number == 0 else 10
        made, _ = store.ensure(
            f"{number:02x}" * 32, f"Entry {number}", lambda f, n=size: (f / "x").write_bytes(bytes(n)) and {}
        )
        os.utime(made.folder / MANIFEST, (0, 1000 + number))
    store.release()
    (tiny.outputs / "runs" / "some-run").mkdir(parents=True)
    (tiny.outputs / "runs" / "some-run" / RECORD_FILE).write_text(json.dumps({"keys": ["27" * 32]}))
    return tiny


def test_ls_shows_the_latest_of_many(many: TinyRuns, capfd: pytest.CaptureFixture[str]) -> None:
    code, out, err = run_store(capfd, many, "ls")
    assert (code, err) == (0, "")
    kinds = [f"Entry {number}" for number in re.findall(r"Entry (\d+) ", out)]
    assert kinds == [f"Entry {number}" for number in range(10, 40)]
    assert re.search(r"^ *272727272727 .* some-run", out, re.MULTILINE)
    assert "40 entries, " in out and "Only the 30 most recently used are shown: --all lists every entry" in out
    _, out, _ = run_store(capfd, many, "ls", "--largest")
    assert "Entry 0 " in out.splitlines()[-4] and "Only the 30 largest are shown" in out
    _, out, _ = run_store(capfd, many, "ls", "--all")
    lines = out.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == [f"{number:02x}" * 6 for number in range(40)]
    assert lines[-2].endswith("Entry 39  some-run") and lines[-1].startswith("40 entries, ")


def test_ls_says_which_records_it_cannot_read(many: TinyRuns, capfd: pytest.CaptureFixture[str]) -> None:
    record = many.outputs / "runs" / "pipe" / RECORD_FILE
    record.parent.mkdir()
    os.mkfifo(record)
    code, out, _ = run_store(capfd, many, "ls")
    shutil.rmtree(record.parent)
    assert code == 0 and f"Not counted: {record} cannot be read: it is a named pipe" in out


def test_interrupted_verify_says_how_far_it_came(
    many: TinyRuns, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    verified: list[StoreItem] = []

    def verify(store: Store, item: StoreItem) -> str:
        verified.append(item)
        if len(verified) == 6:
            raise KeyboardInterrupt
        return verify_item(store, item)

    monkeypatch.setattr(store_gc, "verify_item", verify)
    code, out, _ = run_store(capfd, many, "verify")
    assert code == 130 and "Interrupted: 5 of 40 entries were checked." in out


def test_verify_finds_broken_entries_once(runs: TinyRuns, capfd: pytest.CaptureFixture[str]) -> None:
    items = list_items(runs.outputs / "store")
    assert run_store(capfd, runs, "verify")[0] == 0
    cut, altered, undigested = (item.folder for item in items[:3])
    (cut / "model.tflite").write_bytes(b"cut")
    manifest = (altered / MANIFEST).read_text()
    (altered / MANIFEST).write_text(manifest.replace('"seconds": ', '"seconds": 1', 1))
    assert (altered / MANIFEST).read_text() != manifest
    older = json.loads((undigested / MANIFEST).read_text())
    del older["files"][MANIFEST_DIGEST]
    (undigested / MANIFEST).write_text(json.dumps(older))
    (undigested / MANIFEST_DIGEST).unlink()
    code, out, _ = run_store(capfd, runs, "verify")
    assert code == 1
    assert {f"broken, quarantined: {item.key} {item.kind}" for item in items[:2]} < set(out.splitlines())
    assert f"{len(items) - 2} of {len(items)} entries are sound" in out
    assert "1 of version 0.1: no digest of their facts" in out
    assert run_store(capfd, runs, "verify")[0] == 0
    assert "quarantined" in run_store(capfd, runs, "ls")[1]
    removed = run_store(capfd, runs, "gc", "--unreferenced")[1].splitlines()[:2]
    assert {line[:12] for line in removed} == {cut.name[:12], altered.name[:12]}
    assert len(list_items(runs.outputs / "store")) == len(items) - 2


def test_verify_deep_shows_what_differs(runs: TinyRuns, capfd: pytest.CaptureFixture[str]) -> None:
    root = runs.outputs / "store"
    runs.run("pipeline=quantize", "pipeline.stages.quantize.scheme=int8")  # what an earlier test has removed
    stray = Store(root)
    stray.ensure("ab" + "0" * 62, "Stray", lambda folder: {})
    stray.release()
    keys = {item.kind: item.key for item in list_items(root)}
    altered = keys["Quantize quantize"]
    with alter_entry(root, altered, lambda folder, facts: (folder / "more").write_bytes(b"123")):
        code, out, err = run_store(capfd, runs, "verify", "--deep", "--every", "1")
    shutil.rmtree(stray.folder("ab" + "0" * 62))
    assert (code, err) == (1, "")
    named = len(keys) - 1
    assert f"{named + 1} of {named + 1} entries are sound" in out
    assert f"Making {named} of {named} entries again, all:" in out
    assert out.count(": equal\n") == named - 1 and f"{altered[:12]}  Altered: differs\n" in out
    assert re.search(rf"{altered[:12]} .* more .* 3 bytes .* missing", out)
    assert (
        f"{named - 1} equal, 1 different, 0 not made.\n1 of {named + 1} entries cannot be made again: no record" in out
    )


def test_gc_follows_each_rule(runs: TinyRuns, capfd: pytest.CaptureFixture[str]) -> None:
    root = runs.outputs / "store"
    stray = Store(root)
    entry, _ = stray.ensure("ab" + "0" * 62, "Stray", lambda folder: (folder / "big").write_bytes(bytes(10**6)) and {})
    stray.release()
    before = list_items(root)
    for rule in (["--unreferenced"], ["--max-size", "1K"], ["--older-than", "0s"], ["--older-than", "1d"]):
        assert run_store(capfd, runs, "gc", "--dry-run", *rule)[0] == 0
    assert list_items(root) == before
    old = before[0].folder / MANIFEST
    os.utime(old, (0, before[0].last_use_time - 3 * DAY))
    assert " 3 d " in run_store(capfd, runs, "ls")[1]
    code, out, err = run_store(capfd, runs, "gc", "--older-than", "2d", "--unreferenced")  # both rules must allow it
    assert (code, err) == (0, "") and out.startswith(f"0 of {len(before)} entries are gone")
    code, out, _ = run_store(capfd, runs, "gc", "--unreferenced")
    assert out.splitlines()[0].split() == [entry.key[:12], f"{before[-1].bytes:,}", "Stray"]
    assert len(list_items(root)) == len(before) - 1
    code, out, _ = run_store(capfd, runs, "gc", "--older-than", "2d")
    assert not old.exists() and len(list_items(root)) == len(before) - 2
    size = sum(item.bytes for item in list_items(root))
    first = list_items(root)[0]
    code, out, _ = run_store(capfd, runs, "gc", "--max-size", str(size - 1))
    assert out.split()[0] == first.key[:12] and len(out.splitlines()) == 2
    (runs.outputs / "runs" / "cut").mkdir()
    (runs.outputs / "runs" / "cut" / RECORD_FILE).write_text("{")
    code, _, err = run_store(capfd, runs, "gc", "--unreferenced")
    assert code == 2 and "cannot: " in err and "cut" in err and len(err.splitlines()) == 1
    (runs.outputs / "runs" / "cut" / RECORD_FILE).unlink()
    (runs.outputs / "runs" / "cut" / RECORD_FILE).symlink_to(RECORD_FILE)  # a record that cannot be looked at
    assert run_store(capfd, runs, "gc", "--unreferenced")[0] == 2
    again = runs.run("pipeline=quantize", "pipeline.stages.quantize.scheme=int8")  # what was removed is made again
    assert again.status == "done" and set(again.keys) <= {item.key for item in list_items(root)}


def test_gc_keeps_what_a_run_uses(tmp_path: Path) -> None:
    argv = ["run", *TINY, "tracking=none", "pipeline=prune"]
    running = Running(*argv, "pipeline.stages.prune.epochs=100000", cwd=tmp_path, is_fork=True)
    root = tmp_path / "outputs" / "store"
    running.until(lambda: len(list_items(root)) == 1)
    (item,) = list_items(root)
    for rule in (["--older-than", "0s"], ["--unreferenced", "--max-size", "0"]):
        result = lightexp("store", "gc", *rule, cwd=tmp_path)
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout.startswith("0 of 1 entries are gone") and "(1 in use)" in result.stdout
    assert (item.folder / "model.tflite").exists()
    (record,) = read_records(tmp_path / "outputs")
    assert item.key in record.keys and record.stages == []  # named before the run has ended
    running.kill()
    running.end()
    result = lightexp("store", "gc", "--unreferenced", cwd=tmp_path)
    assert result.stdout.startswith("0 of 1 entries are gone")  # the same command goes on from there
    result = lightexp("store", "gc", "--older-than", "0s", cwd=tmp_path)
    assert result.stdout.startswith(item.key[:12])
    assert list_items(root) == []
    assert not list((root / "drafts").iterdir())


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["store"], "the following arguments are required: COMMAND"),
        (["store", "verfy"], "'verfy' is not a COMMAND of lightexp store: did you mean 'verify'?"),
        (["store", "gc"], "store gc needs a rule: --older-than AGE"),
        (
            ["store", "gc", "--older-then", "3d"],
            "--older-then is not a flag of lightexp store gc: did you mean '--older-than'?",
        ),
        (["store", "verify", "--every", "3"], "--every 3 is for --deep"),
        (["store", "verify", "--deep", "--every", "0"], "'0' is no number of entries"),
        (["store", "gc", "--older-than", "30"], "'30' is no age"),
        (["store", "gc", "--max-size", "2Q"], "'2Q' is no size"),
        (["store", "ls", "nonsense"], "nonsense is not an argument of lightexp store: settings are written name=value"),
        (["store", "ls", "paths.outputs=nowhere"], "nowhere holds no store"),
        (["store", "ls", "sed=1"], "sed is not a setting: did you mean 'seed'?"),
        (["store", "--config-dir", "nowhere", "ls"], "--config-dir=nowhere is not a folder"),
        (["store", "ls", "--config-dir", "nowhere"], "--config-dir=nowhere is not a folder"),
    ],
)
def test_store_refuses_bad_input_in_one_line(
    argv: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs" / "store").mkdir(parents=True)
    assert main(argv) == 2
    captured = capfd.readouterr()
    assert captured.out == "" and len(captured.err.splitlines()) == 1
    assert message in captured.err


def test_help_imports_no_numpy() -> None:
    code = "import sys; from lightexp.cli import store; store.make_parser(); assert 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
