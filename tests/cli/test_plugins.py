"""A user's own package: `tests/plugin_example` has one of everything, and keeps to nobody's rules but its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.commands import lightexp, records

EXAMPLE = Path(__file__).parents[1] / "plugin_example"
PLUGIN = ["plugins=[roundoff]", "dataset=stripes", "model=two_layers", "measure=roundoff", "pipeline=control"]
PLUGIN += ["+stage@pipeline.stages.roundoff=roundoff", "pipeline.order=[train,roundoff]"]
PLUGIN += ["objective@pipeline.stages.train.objective=focal", "pipeline.stages.train.epochs=1"]
PLUGIN += ["runtime.threads=1", "tracking=none", f"--config-dir={EXAMPLE / 'conf'}"]


@pytest.fixture
def on_path(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Puts folders on the path of the processes that a test starts."""

    def put(*folders: Path) -> None:
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([*map(str, folders), os.environ.get("PYTHONPATH", "")]))

    return put


def test_a_stage_an_objective_a_model_a_data_set_and_a_measurement_of_ones_own(
    on_path: Callable[[Path], None], tmp_path: Path
) -> None:
    on_path(EXAMPLE)
    done = lightexp("run", *PLUGIN, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    [record] = records(tmp_path / "outputs")
    assert record.name == "two_layers stripes train-roundoff"
    assert [stage.metric("roundoff/on_grid") for stage in record.stages] == [pytest.approx(0, abs=0.1), 1.0]
    assert record.metrics["accuracy/test"] > 0.9
    assert record.metrics["model/params"] == 64 * 16 + 16 + 16 * 2 + 2
    again = [line for line in done.stdout.splitlines() if "lightexp run" in line]
    assert len(again) == 2
    assert all(f"--config-dir={EXAMPLE / 'conf'}" in line for line in again)


KEYS = """
import sys
from hydra import initialize_config_dir
from lightexp.runner.compose import compose_config
from lightexp.runner.config_dir import find_config_dir
from lightexp.runner.run import Runner
from lightexp.runner.settings import read_settings
from lightexp.runner.progress import SilentReporter
with initialize_config_dir(str(find_config_dir()), version_base="1.3"):
    config = compose_config([f"hydra.searchpath=[file://{sys.argv[1]}]", *sys.argv[2:]])
print(*(node.key for node in Runner(SilentReporter()).plan(read_settings(config))[0].nodes))
"""


def test_its_whole_source_is_part_of_the_keys(on_path: Callable[[Path], None], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(EXAMPLE, tmp_path / "copy"))
    on_path(copy)

    def keys() -> list[str]:
        words = [str(copy / "conf"), *(word for word in PLUGIN if not word.startswith("--"))]
        done = subprocess.run([sys.executable, "-c", KEYS, *words], capture_output=True, text=True, check=True)
        return done.stdout.split()

    before = keys()
    (copy / "roundoff" / "notes.txt").write_text("no code")
    assert keys() == before
    with (copy / "roundoff" / "grid.py").open("a") as helper:  # not the stage's own module, but one that it uses
        helper.write("# changed\n")
    assert len(before) == 2
    assert not set(before) & set(keys())


@pytest.mark.parametrize(
    ("source", "words", "said"),
    [
        ("", ["plugins=[]"], "only lightexp's own classes may be named. To allow your package, add plugins=[broken]."),
        (None, [], "cannot be imported (ModuleNotFoundError: No module named 'broken'). Install it, or"),
        ("1 / 0", [], "cannot be imported (ZeroDivisionError: division by zero)."),
        ("class Net:\n  def", [], "cannot be imported (SyntaxError: invalid syntax (broken.py, line 2))."),
        ("raise SystemExit('two\\nlines')", [], "cannot be imported (SystemExit: two lines)."),
        ("class Net: pass", [], "names 'broken.Net', which is not a dataclass."),
        ("import dataclasses\n@dataclasses.dataclass\nclass Net: pass", [], "must be a Model. Received: broken.Net."),
        (
            "import dataclasses\nfrom lightexp.core.protocols import Model\n"
            "@dataclasses.dataclass(frozen=True)\nclass Net(Model): width: float = 1.0",
            [],
            "model: Can't instantiate abstract class Net with abstract methods build, scaled.",
        ),
    ],
    ids=["not allowed", "absent", "raises", "syntax", "exits", "no dataclass", "no model", "half a model"],
)
def test_a_package_that_cannot_be_used_is_one_line(
    source: str | None, words: list[str], said: str, on_path: Callable[[Path], None], tmp_path: Path
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    if source is not None:
        (folder / "broken.py").write_text(source)
    on_path(folder)
    given = ["plugins=[broken]", "model=article_mlp", "~model.dropout", "model._target_=broken.Net", *words]
    done = lightexp("run", *given, cwd=tmp_path)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1), done.stderr
    assert said in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert not (folder / "__pycache__").exists() or words == []


FAULTY = """
from dataclasses import dataclass
from roundoff import focal, on_grid, roundoff, stripes, two_layers

def made(cls, method):
    def faulty(self, *words):
        if self.fails == method:
            raise KeyError(f"{method} went\\nwrong")
        return getattr(cls, method)(self, *words)
    return dataclass(frozen=True)(type(cls.__name__, (cls,), {
        "__annotations__": {"fails": str}, "fails": "", "__module__": __name__, method: faulty}))

Stage, Objective = made(roundoff.Roundoff, "apply"), made(focal.Focal, "loss")
Model, Data = made(two_layers.TwoLayers, "build"), made(stripes.Stripes, "load")
Measure = made(on_grid.OnGrid, "measure")
"""
PLACES = {
    "model": "Model",
    "pipeline.stages.roundoff": "Stage",
    "pipeline.stages.train.objective": "Objective",
    "measure.grid": "Measure",
}


def test_an_error_in_its_code_is_one_line_and_does_not_stop_a_sweep(
    on_path: Callable[[Path], None], tmp_path: Path
) -> None:
    (tmp_path / "faulty.py").write_text(FAULTY)
    on_path(EXAMPLE, tmp_path)
    words = [word for word in PLUGIN if "plugins" not in word]
    words += ["plugins=[roundoff,faulty]", "dataset._target_=faulty.Data"]
    for place, name in PLACES.items():
        words += [f"{place}._target_=faulty.{name}", f"+{place}.fails=${{dataset.fails}}"]
    methods = ["load", "build", "loss", "apply", "measure"]
    done = lightexp("run", *words, "-m", f"+dataset.fails={','.join(methods)}", cwd=tmp_path)
    told = [line for line in done.stderr.splitlines() if line.startswith("lightexp: ")]
    assert (done.returncode, len(told)) == (1, len(methods)), done.stderr
    assert "Traceback" not in done.stderr
    assert "Error executing" not in done.stderr
    for method, line in zip(methods, told, strict=True):
        assert f"{tmp_path / 'faulty.py'}, line 8: KeyError: '{method} went" in line
        whole = Path(line.rpartition("(the whole error is in ")[2].removesuffix(")"))
        assert whole.read_text().startswith("Traceback")
        if method in ("load", "build"):  # before there is a run that its folder could be in
            whole.unlink()
    assert [record.status for record in records(tmp_path / "outputs")] == ["failed"] * 3
