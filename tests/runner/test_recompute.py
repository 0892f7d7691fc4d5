"""Making store entries again from the records of the runs that made them, and comparing the bytes."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lightexp.core.errors import BadInput
from lightexp.core.protocols import TFLITE
from lightexp.core.record import Record, read_record
from lightexp.core.store import Store
from lightexp.core.store_gc import list_items, sweep_orphans
from lightexp.core.training import Rung
from lightexp.runner.compose import compose_settings
from lightexp.runner.progress import SilentReporter
from lightexp.runner.recompute import EntryDifference, Recipe, find_recipes, recompute, recompute_entries
from lightexp.runner.run import Runner
from tests.tiny_runs import TinyRuns, alter_entry


@pytest.fixture(scope="module")
def runs(tensorflow: None, tmp_path_factory: pytest.TempPathFactory) -> TinyRuns:
    """A store with the entries of one run, calibration set included."""
    tiny = TinyRuns(tmp_path_factory.mktemp("recompute"))
    tiny.run("model=article_mlp", "pipeline=quantize", "pipeline.stages.quantize.scheme=int8")
    return tiny


def list_records(runs: TinyRuns) -> list[Record]:
    return [read_record(path.parent) for path in sorted(runs.outputs.glob("*/*/record.json"))]


def make_recipes(runs: TinyRuns) -> dict[str, Recipe]:
    """Return the recipe of each entry, by the entry's description."""
    kinds = {item.key: item.kind for item in list_items(runs.outputs / "store")}
    recipes, reasons = find_recipes(kinds, list_records(runs), [])
    assert reasons == {}
    return {kinds[recipe.key]: recipe for recipe in recipes}


def recompute_with(runs: TinyRuns, recipe: Recipe) -> list[EntryDifference]:
    return recompute(runs.outputs / "store", recipe, Runner(SilentReporter()))


def test_recompute_gives_every_entry_again(runs: TinyRuns, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)  # to which it returns; a recipe leads to its run's folder
    before = list_items(runs.outputs / "store")
    recipes = make_recipes(runs)
    assert set(recipes) == {"Train train", "Quantize quantize", "Calibration quantize.calibration"}
    assert {kind: recompute_with(runs, recipe) for kind, recipe in recipes.items()} == {kind: [] for kind in recipes}
    recipe = recipes["Calibration quantize.calibration"]
    relative = {**recipe.config, "dataset": {**recipe.config["dataset"], "path": runs.arrays.name}}
    assert recompute_with(runs, replace(recipe, config=relative, folder=str(runs.arrays.parent))) == []
    assert list_items(runs.outputs / "store") == before  # nothing is added, removed, or marked as used
    assert sweep_orphans(runs.outputs / "store", dry=True) == 0


def test_recompute_finds_other_bytes_and_facts(runs: TinyRuns) -> None:
    recipe = make_recipes(runs)["Train train"]
    root = runs.outputs / "store"

    def change(folder: Path, facts: dict[str, Any]) -> None:
        content = bytearray((folder / TFLITE).read_bytes())
        content[100] ^= 1
        (folder / TFLITE).write_bytes(content)
        (folder / "weights.npz").unlink()
        (folder / "more").write_bytes(b"123")
        facts["history"]["loss"][0] += 1.0

    loss = Store(root).check(recipe.key).facts["history"]["loss"][0]  # type: ignore[union-attr]
    size = (Store(root).folder(recipe.key) / TFLITE).stat().st_size
    weights = (Store(root).folder(recipe.key) / "weights.npz").stat().st_size
    with alter_entry(root, recipe.key, change):
        assert recompute_with(runs, recipe) == [
            EntryDifference(TFLITE, f"{size:,} bytes", f"{size:,} bytes, other from byte 100"),
            EntryDifference("more", "3 bytes", "missing"),
            EntryDifference("weights.npz", "missing", f"{weights:,} bytes"),
            EntryDifference("facts.history.loss.0", repr(loss + 1.0), repr(loss)),
        ]


def test_recompute_stops_at_the_same_rung(tensorflow: None, tmp_path: Path) -> None:
    tiny = TinyRuns(tmp_path)
    overrides = tiny.list_overrides("model=article_mlp", "pipeline=prune", "pipeline.stages.prune.end=0.5")
    settings = replace(compose_settings([*overrides, "pipeline.stages.prune.epochs=3"]), rung=Rung(0, (0,)))
    record = Runner(SilentReporter()).trial(settings, [], tiny.outputs / "runs" / "trial", [])
    assert record.status == "done", record.reason
    recipe = make_recipes(tiny)["Prune prune"]
    assert recipe.stop == 2
    assert recompute_with(tiny, recipe) == []


def test_find_recipes_says_why_there_is_none(runs: TinyRuns) -> None:
    (record,) = list_records(runs)
    key, unnamed = record.stages[0].key, "0" * 64
    assert find_recipes([unnamed], [record], []) == ([], {unnamed: "no record names it"})
    other = replace(record, environment={**record.environment, "processor": "other"})
    ((key_of_reason, reason),) = find_recipes([key], [other], [])[1].items()
    assert key_of_reason == key and "another kind of processor" in reason
    foreign = replace(record, config={**record.config, "plugins": ["other_package"]})
    assert "plugins=[other_package]" in find_recipes([key], [foreign], [])[1][key]
    assert len(find_recipes([key], [foreign], ["other_package"])[0]) == 1
    # The run that made it counts, not one that used it earlier or later.
    users = [replace(record, started=time, environment={**record.environment, "threads": 7}) for time in (0.0, 1e12)]
    for user in users:
        user.stages = [replace(stage, from_store=True) for stage in user.stages]
    (recipe,), _ = find_recipes([key], [users[0], record, users[1]], [])
    assert recipe.threads == record.environment["threads"]


def test_recompute_refuses_what_has_other_keys_today(runs: TinyRuns, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(os.getcwd())
    recipe = make_recipes(runs)["Train train"]
    with pytest.raises(BadInput, match="its run gives other keys today"):
        recompute_with(runs, replace(recipe, config={**recipe.config, "seed": 5}))
    with pytest.raises(BadInput, match="seed"):
        recompute_with(runs, replace(recipe, config={**recipe.config, "seed": -5}))
    assert not list((runs.outputs / "store" / "drafts").iterdir())


def test_recompute_entries_goes_on_after_a_killed_worker(runs: TinyRuns) -> None:
    root = runs.outputs / "store"
    recipes = make_recipes(runs)

    def kill_worker() -> None:
        deadline = time.monotonic() + 60
        while not (scratch := list((root / "drafts").iterdir())):
            assert time.monotonic() < deadline, "the worker does not begin"
            time.sleep(0.01)
        os.kill(int(scratch[0].name.removeprefix("again-")), signal.SIGKILL)

    with ThreadPoolExecutor(1) as thread:
        killing = thread.submit(kill_worker)
        both = [recipes["Calibration quantize.calibration"], recipes["Quantize quantize"]]  # made without TensorFlow
        first, second = recompute_entries(root, both, [])
        killing.result()
    assert (first.failure, first.differences) == ("the process that made it has ended (SIGKILL)", ())
    assert (second.failure, second.differences) == (None, ())
    assert list((root / "drafts").iterdir()) == []
