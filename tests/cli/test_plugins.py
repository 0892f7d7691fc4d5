"""A user's package: `tests/plugin_example` has one of everything."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.commands import lightexp, read_records
from tests.command_server import run_script

EXAMPLE = Path(__file__).parents[1] / "plugin_example"
PLUGIN = ["plugins=[roundoff]", "dataset=stripes", "model=two_layers", "measure=roundoff", "pipeline=control"]
PLUGIN += ["+stage@pipeline.stages.roundoff=roundoff", "pipeline.order=[train,roundoff]"]
PLUGIN += ["objective@pipeline.stages.train.objective=focal", "pipeline.stages.train.epochs=1"]
PLUGIN += ["runtime.threads=1", "tracking=none", f"--config-dir={EXAMPLE / 'conf'}"]


@pytest.fixture
def on_path(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Put folders on the path of the processes that a test starts."""

    def put_on_path(*folders: Path) -> None:
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([*map(str, folders), os.environ.get("PYTHONPATH", "")]))

    return put_on_path


def test_run_uses_one_of_each_kind_from_a_plugin(on_path: Callable[[Path], None], tmp_path: Path) -> None:
    on_path(EXAMPLE)
    result = lightexp("run", *PLUGIN, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    [record] = read_records(tmp_path / "outputs")
    assert record.name == "two_layers stripes train-roundoff"
    assert [stage.metric("roundoff/on_grid") for stage in record.stages] == [pytest.approx(0, abs=0.1), 1.0]
    assert record.metrics["accuracy/test"] > 0.9
    assert record.metrics["model/params"] == 64 * 16 + 16 + 16 * 2 + 2
    commands = [line for line in result.stdout.splitlines() if "lightexp run" in line]
    assert len(commands) == 2
    assert all(f"--config-dir={EXAMPLE / 'conf'}" in line for line in commands)


def test_task_of_a_plugin_is_followed(on_path: Callable[[Path], None], tmp_path: Path) -> None:
    on_path(EXAMPLE)
    data = ["dataset=sklearn", "dataset.name=diabetes", "model=mlp", "pipeline=sensitivity_prune", "measure=quick"]
    short = [f"pipeline.stages.{stage}.epochs=8" for stage in ("train", "prune")]
    task = ["plugins=[roundoff]", "task=quantile", "tracking=none", f"--config-dir={EXAMPLE / 'conf'}"]
    result = lightexp("run", *data, *short, *task, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    [record] = read_records(tmp_path / "outputs")
    primary = record.dataset["primary"]
    assert (primary["name"], primary["direction"]) == ("pinball", "min")
    assert record.stages[0].facts["history"]["val_pinball"][-1] < primary["reference"]
    assert 0 < record.metrics["pinball/test"] < 1
    assert "pinball/test" in result.stdout  # a column of the table


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


def test_keys_cover_all_source_of_a_plugin(on_path: Callable[[Path], None], tmp_path: Path) -> None:
    copy, program = Path(shutil.copytree(EXAMPLE, tmp_path / "copy")), tmp_path / "keys.py"
    program.write_text(KEYS)
    on_path(copy)

    def compute_keys() -> list[str]:
        arguments = [str(copy / "conf"), *(argument for argument in PLUGIN if not argument.startswith("--"))]
        result = run_script(program, arguments, tmp_path, os.environ, 60)
        assert result.returncode == 0, result.stderr
        return result.stdout.split()

    before = compute_keys()
    (copy / "roundoff" / "notes.txt").write_text("no code")
    assert compute_keys() == before
    with (copy / "roundoff" / "grid.py").open("a") as helper:  # not the stage's module, but one that it uses
        helper.write("# changed\n")
    assert len(before) == 2
    assert not set(before) & set(compute_keys())


@pytest.mark.parametrize(
    ("source", "settings", "message"),
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
def test_unusable_plugin_is_one_line(
    source: str | None, settings: list[str], message: str, on_path: Callable[[Path], None], tmp_path: Path
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    if source is not None:
        (folder / "broken.py").write_text(source)
    on_path(folder)
    arguments = ["plugins=[broken]", "model=article_mlp", "~model.dropout", "model._target_=broken.Net", *settings]
    result = lightexp("run", *arguments, cwd=tmp_path)
    assert (result.returncode, result.stdout, len(result.stderr.splitlines())) == (2, "", 1), result.stderr
    assert message in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert not (folder / "__pycache__").exists() or settings == []


FAULTY = """
from dataclasses import dataclass
from roundoff import focal, on_grid, roundoff, stripes, two_layers

def make_faulty(cls, method):
    def faulty(self, *args):
        if self.fails == method:
            raise KeyError(f"{method} went\\nwrong")
        return getattr(cls, method)(self, *args)
    return dataclass(frozen=True)(type(cls.__name__, (cls,), {
        "__annotations__": {"fails": str}, "fails": "", "__module__": __name__, method: faulty}))

Stage, Objective = make_faulty(roundoff.Roundoff, "apply"), make_faulty(focal.Focal, "loss")
Model, Data = make_faulty(two_layers.TwoLayers, "build"), make_faulty(stripes.Stripes, "load")
Measure = make_faulty(on_grid.OnGrid, "measure")
"""
PLACES = {
    "model": "Model",
    "pipeline.stages.roundoff": "Stage",
    "pipeline.stages.train.objective": "Objective",
    "measure.grid": "Measure",
}


def test_plugin_error_is_one_line_and_sweep_goes_on(on_path: Callable[[Path], None], tmp_path: Path) -> None:
    (tmp_path / "faulty.py").write_text(FAULTY)
    on_path(EXAMPLE, tmp_path)
    arguments = [argument for argument in PLUGIN if "plugins" not in argument]
    arguments += ["plugins=[roundoff,faulty]", "dataset._target_=faulty.Data"]
    for place, name in PLACES.items():
        arguments += [f"{place}._target_=faulty.{name}", f"+{place}.fails=${{dataset.fails}}"]
    methods = ["load", "build", "loss", "apply", "measure"]
    result = lightexp("run", *arguments, "-m", f"+dataset.fails={','.join(methods)}", cwd=tmp_path)
    complaints = [line for line in result.stderr.splitlines() if line.startswith("lightexp: ")]
    assert (result.returncode, len(complaints)) == (1, len(methods)), result.stderr
    assert "Traceback" not in result.stderr
    assert "Error executing" not in result.stderr
    for method, line in zip(methods, complaints, strict=True):
        assert f"{tmp_path / 'faulty.py'}, line 8: KeyError: '{method} went" in line
        traceback_file = Path(line.rpartition("(the traceback is in ")[2].removesuffix(")"))
        assert traceback_file.read_text().startswith("Traceback")
        if method in ("load", "build"):  # before the run has a folder for it
            traceback_file.unlink()
    assert [record.status for record in read_records(tmp_path / "outputs")] == ["failed"] * 3
