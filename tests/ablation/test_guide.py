"""Examples of the guide on ablations, and the file that `lightexp ablate --new` writes."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightexp.ablation.planners import RowPlanner
from lightexp.ablation.spec import AblationFile, AblationSpec, read_spec
from lightexp.cli.main import main
from lightexp.report.table_spec import Presentation

GUIDE = (Path(__file__).parents[2] / "lightexp" / "guides" / "ablation.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```yaml\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)
KEYS = {field.name for field in fields(AblationFile)}
MakeSpec = Callable[..., AblationSpec]


def test_guide_names_every_key_and_kind_of_row() -> None:
    assert {name for name in KEYS if f"`{name}`" not in GUIDE} == set()
    nodes: list[Any] = [node for text in EXAMPLES for node in yaml.safe_load(text).values()]
    shown = {key for node in nodes if isinstance(node, dict) for key in node}
    assert {field.name for field in fields(RowPlanner)} <= shown
    settings = {key for text in EXAMPLES for key in yaml.safe_load(text)}
    assert {field.name for field in fields(Presentation)} <= settings


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda text: " ".join(text.split()[:5]))
def test_example_makes_the_rows_that_the_guide_says(example: str, make_spec: MakeSpec) -> None:
    content = yaml.safe_load(example)
    base = ["dataset=digits", "model=small_cnn"]
    if set(content) <= KEYS:
        spec = make_spec(base=base, rows={"control": ["pipeline=control"], "prune": ["pipeline=prune"]}, **content)
        assert len(spec.rows) == 2
        return
    spec = make_spec(base=base, rows={"control": ["pipeline=control"], **content})
    listed = re.search(r"# makes: (.*)", example)
    assert listed is not None
    assert [row.name for row in spec.rows] == ["control", *listed[1].split("; ")]


def test_new_file_is_an_ablation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["ablate", "--new", "tables/my table.yaml"]) == 0
    assert "lightexp ablate 'tables/my table.yaml' --plan" in capfd.readouterr().out
    path = Path("tables/my table.yaml")
    assert path.read_text().startswith("# my table: ")
    assert len(read_spec(path, []).rows) == 10
    commented = re.sub(r"^# (?=(labels|margin|latex|external|  Doe))", "", path.read_text(), flags=re.MULTILINE)
    path.write_text(commented)
    assert read_spec(path, []).show.latex.columns == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["there.yaml"], "there.yaml exists already"),
        ([], "--new takes one file that ends in .yaml, such as experiments/mine.yaml. Received: nothing."),
        (["new.yml"], "--new takes one file that ends in .yaml"),
        (["there.yaml/new.yaml"], "there.yaml/new.yaml cannot be written"),
        (["new.yaml", "dataset=mnist"], "--new takes one file"),
    ],
)
def test_new_file_refuses_what_it_cannot_write(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there.yaml").write_text("kept")
    assert main(["ablate", "--new", *arguments]) == 2
    err = capfd.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert Path("there.yaml").read_text() == "kept"
