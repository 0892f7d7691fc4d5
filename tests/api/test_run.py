"""`lightexp.run` in the test's own process: what it returns, raises and logs, and which worker does the work."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import shutil
import sys
import threading
from pathlib import Path

import pytest

import lightexp
from lightexp.core.record import read_record
from tests.cli.commands import read_records

pytestmark = pytest.mark.usefixtures("warm_workers")

TINY = "model.width=0.25 pipeline=control pipeline.stages.train.epochs=1 measure=quick tracking=none runtime.threads=1"
PYTHON = sys.executable
EXAMPLE = Path(__file__).parents[1] / "plugin_example"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_run_returns_the_record_of_its_folder(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "lightexp"):
        record = lightexp.run(f"{TINY} seed=3")
    assert record == read_record(folder / "outputs" / "runs" / record.id)
    assert record.status == "done"
    assert record.metrics["accuracy/test"] == record.figures["accuracy/test"] > 0.3
    assert record.varied == [*TINY.split(), "seed=3"]
    assert record.environment["folder"] == str(folder)
    assert {logged.name for logged in caplog.records} == {"lightexp"}
    assert any("train: epoch 1/1  loss" in message for message in caplog.messages)
    assert lightexp.run([*TINY.split(), "seed=3"]).stages[0].from_store


def test_run_takes_different_thread_counts(folder: Path) -> None:
    threads = [2, 1, 2]
    run_records = [lightexp.run([*TINY.split(), f"runtime.threads={n}", f"seed={n}"]) for n in threads]
    assert [record.environment["threads"] for record in run_records] == threads
    assert [record.stages[0].from_store for record in run_records] == [False, False, True]


def test_run_follows_the_current_folder_and_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = folder / "other"
    other.mkdir()
    monkeypatch.setenv("MY_OUTPUTS", str(folder / "first"))
    lightexp.run([*TINY.split(), "paths.outputs=${oc.env:MY_OUTPUTS}"])
    monkeypatch.setenv("MY_OUTPUTS", "second")
    monkeypatch.chdir(other)
    lightexp.run([*TINY.split(), "paths.outputs=${oc.env:MY_OUTPUTS}"])
    assert [len(read_records(place)) for place in (folder / "first", other / "second")] == [1, 1]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("modle=lenet5", "modle is not a setting: did you mean 'model'?"),
        (["pipeline.order=[train,never]"], "never"),
        (["--plan"], "--plan is a flag of the command line. Pass settings only"),
        ([3], "overrides are strings such as 'seed=1'. Received: 3."),
        ("seed='1", "overrides cannot be split: No closing quotation. Received: seed='1. Pass a list."),
    ],
)
def test_bad_input_is_raised_as_such(overrides: str | list[str], message: str, folder: Path) -> None:
    with pytest.raises(lightexp.BadInput) as raised:
        lightexp.run(overrides)
    assert message in str(raised.value)
    assert list(folder.iterdir()) == []


def test_a_failed_run_raises_and_is_recorded(folder: Path) -> None:
    with pytest.raises(lightexp.RunFailed) as raised:
        lightexp.run([*TINY.split(), "pipeline.stages.train.learning_rate=1e30"])
    [record] = read_records(folder / "outputs")
    assert (record.status, record.reason) == ("failed", str(raised.value))


def test_an_error_names_the_line_of_the_plugin(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "broken_model.py").write_text(
        "from dataclasses import dataclass\nfrom lightexp.models.small_cnn import SmallCnn\n\n"
        "@dataclass(frozen=True)\nclass Broken(SmallCnn):\n"
        "    def build(self, *arguments):\n        raise KeyError('no layer')\n"
    )
    monkeypatch.syspath_prepend(folder)
    with pytest.raises(lightexp.RunFailed, match=r"broken_model\.py, line 7: KeyError: 'no layer'"):
        lightexp.run([*TINY.split(), "plugins=[broken_model]", "model._target_=broken_model.Broken"])


def test_a_plugin_of_the_callers_path_is_found_and_reloaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = Path(shutil.copytree(EXAMPLE / "roundoff", folder / "mine" / "roundoff"))
    monkeypatch.syspath_prepend(folder / "mine")
    overrides = [
        *TINY.split(),
        "plugins=[roundoff]",
        f"hydra.searchpath=[file://{EXAMPLE / 'conf'}]",
        "measure=roundoff",
    ]
    first = lightexp.run(overrides)
    assert "roundoff/on_grid" in first.metrics
    path = copy / "on_grid.py"
    path.write_text(path.read_text().replace("roundoff/on_grid", "roundoff/on_a_grid"))
    assert "roundoff/on_a_grid" in lightexp.run(overrides).metrics


def test_a_file_of_the_current_folder_replaces_no_module(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("json", "numpy", "tensorflow", "random"):
        (folder / f"{name}.py").write_text("raise SystemExit('the wrong module')\n")
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    monkeypatch.setattr(sys, "executable", PYTHON)
    monkeypatch.setenv("PYTHON_TEST", "needs a new worker, which has imported nothing")
    assert lightexp.run(TINY).status == "done"


def test_run_works_inside_an_event_loop(folder: Path) -> None:
    async def call() -> str:
        return lightexp.run(TINY).status

    assert asyncio.run(call()) == "done"


def test_run_works_in_threads_at_once(folder: Path) -> None:
    statuses: dict[int, str] = {}

    def call(seed: int) -> None:
        statuses[seed] = lightexp.run([*TINY.split(), f"seed={seed}"]).status

    threads = [threading.Thread(target=call, args=[seed]) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == {1: "done", 2: "done"}


def test_run_works_in_a_forked_process(folder: Path) -> None:
    assert lightexp.run(TINY).status == "done"
    child = os.fork()
    if not child:
        code = 1
        try:
            code = 0 if lightexp.run(TINY).stages[0].from_store else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert lightexp.run(TINY).status == "done"


def test_run_needs_no_standard_streams(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr(sys, "stdout", written)
    monkeypatch.setattr(sys, "stderr", None)
    assert lightexp.run(TINY).status == "done"
    assert written.getvalue() == ""


def test_a_record_shows_itself_in_a_notebook(folder: Path) -> None:
    assert "<table>" in lightexp.run(TINY)._repr_html_()
