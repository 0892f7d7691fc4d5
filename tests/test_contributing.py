"""The worked example of CONTRIBUTING.md works as it is written, and what the page names exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import lightexp
from lightexp.core import protocols
from tests.documents import DOCUMENTS

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
BLOCKS = dict(re.findall(r"^```(python|yaml)\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL))
TINY = "model.width=0.25 pipeline.stages.train.epochs=1 measure=quick tracking=none runtime.threads=1"


@pytest.mark.usefixtures("warm_workers")
def test_worked_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "package" / "round_weights.py").parent.mkdir()
    (tmp_path / "package" / "round_weights.py").write_text(BLOCKS["python"])
    config = BLOCKS["yaml"].replace("lightexp.stages.round_weights", "round_weights")
    (tmp_path / "conf" / "stage").mkdir(parents=True)
    (tmp_path / "conf" / "stage" / "round_weights.yaml").write_text(config)
    monkeypatch.syspath_prepend(tmp_path / "package")
    monkeypatch.chdir(tmp_path)
    [command] = re.findall(r"^lightexp run (.*round_weights.*)$", TEXT, re.MULTILINE)
    record = lightexp.run(f"{command} {TINY} plugins=[round_weights] 'hydra.searchpath=[file://{tmp_path}/conf]'")
    assert [stage.name for stage in record.stages] == ["train", "round"]
    assert record.stages[1].facts["values"] < 100
    assert record.metrics["accuracy/test"] == pytest.approx(record.stages[0].metric("accuracy/test"), abs=0.1)


def test_named_files_and_base_classes_exist() -> None:
    rows = re.findall(r"^\| \w[\w ]* \| `(\w+)`: (.*?) \| `(\w+/)`, `(conf/\w+/)` \| `(.*?)` \|$", TEXT, re.MULTILINE)
    assert len(rows) == 6
    for name, methods, folder, group, example in rows:
        for method in re.findall(r"`(\w+)`", methods):
            assert hasattr(getattr(protocols, name), method)
        assert (ROOT / "lightexp" / folder).is_dir() and (ROOT / group).is_dir()
        assert (ROOT / "lightexp" / example).is_file()


def test_documents_link_to_existing_files() -> None:
    for document in [*DOCUMENTS, ROOT / "CONTRIBUTING.md", ROOT / "ARCHITECTURE.md", ROOT / "CHANGELOG.md"]:
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document} links to {target}"
