"""`lightexp.search`, `ablate` and `report`: what the commands do, as objects with a DataFrame."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

import lightexp
from tests.cli.commands import lightexp as run_command

pytestmark = pytest.mark.usefixtures("warm_workers")

TINY = ["model.width=0.25", "measure=quick", "tracking=none", "runtime.threads=1"]
ABLATION = """
claim: Eight bits cost nothing.
control: plain
seeds: [0, 1]
figures: [front]
base: [model.width=0.25, measure=quick, tracking=none, runtime.threads=1, pipeline.stages.train.epochs=1]
rows:
  plain: [pipeline=control]
  int8: [pipeline=quantize]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_search_returns_the_front_of_the_study(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    words = [*TINY, "search=prune_quantize", "pipeline.stages.train.epochs=1", "pipeline.stages.prune.epochs=1"]
    with caplog.at_level(logging.INFO, "lightexp"):
        result = lightexp.search([*words, "search.trials=2", "search.study=tiny"])
    assert result.folder == folder / "outputs" / "searches" / "tiny"
    assert {"trial", "varied", "command", "accuracy/val", "accuracy/test"} <= set(result.frame.columns)
    assert 1 <= len(result.frame) <= 2
    assert list(result.trials["status"]) == ["done", "done"]
    assert {"front.json", "front.md", "front.svg"} <= {path.name for path in result.files}
    assert "<table" in result._repr_html_()
    assert any("The front is being tested." in message for message in caplog.messages)
    assert len(lightexp.records("outputs/searches")) == len(lightexp.records("outputs")) == 2


def test_ablate_and_report_return_the_same_report(folder: Path) -> None:
    (folder / "tiny.yaml").write_text(ABLATION)
    with pytest.raises(lightexp.BadInput, match="tiny"):
        lightexp.report("tiny.yaml")
    result = lightexp.ablate("tiny.yaml")
    assert result.folder == folder / "results" / "tiny"
    assert sorted(zip(result.frame["row"], result.frame["seed"], strict=True)) == [
        ("int8", 0),
        ("int8", 1),
        ("plain", 0),
        ("plain", 1),
    ]
    assert set(result.statistics["row"]) == {"int8", "plain"}
    assert result.page.is_file() and result.page in result.files
    assert "<table" in result._repr_html_()
    again = lightexp.report(folder / "tiny.yaml")
    assert again.frame.equals(result.frame)
    runs = lightexp.report("outputs", "out=mine only=quantize figures=[front]")
    assert runs.folder == folder / "mine"
    assert len(runs.frame) == 2
    assert lightexp.report().folder == folder / "outputs" / "reports" / "outputs"
    assert run_command("report", "outputs", cwd=folder).returncode == 0
    assert len(lightexp.records()) == 4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: lightexp.search("search.trials=none"), "search.trials"),
        (lambda: lightexp.search("serch=quantize"), "serch"),
        (lambda: lightexp.ablate("missing.yaml"), "missing.yaml"),
        (
            lambda: lightexp.ablate("missing.yaml", workers=0),
            "workers must be a whole number from 1. Received: workers=0",
        ),
        (lambda: lightexp.report("missing"), "missing"),
        (lambda: lightexp.report(None), "nothing was requested"),
        (lambda: lightexp.report("outputs", "onyl=x"), "onyl is not a setting"),
    ],
)
def test_bad_input_is_raised_as_such(call, message, folder):
    with pytest.raises(lightexp.BadInput) as raised:
        call()
    assert message in str(raised.value)


def test_a_failed_row_is_named(folder: Path) -> None:
    broken = ABLATION.replace("[pipeline=quantize]", "[pipeline=quantize, pipeline.stages.train.learning_rate=1e30]")
    (folder / "tiny.yaml").write_text(broken.replace("[0, 1]", "[0]"))
    with pytest.raises(lightexp.RunFailed, match=r"^int8, seed 0 failed: train: .* learning_rate=1e\+30; try a tenth"):
        lightexp.ablate("tiny.yaml")
    assert list(lightexp.report("tiny.yaml").frame["row"]) == ["plain"]
