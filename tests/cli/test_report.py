"""`lightexp report` of an ablation, of runs, of a study and of MLflow: from records alone."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import yaml

from lightexp.ablation.runs import compose_with_seed, make_tags
from lightexp.ablation.spec import read_spec
from lightexp.cli.main import main
from lightexp.core.record import Record, read_record
from lightexp.tracking.mlflow import Mlflow
from tests.synthetic import synthesize_record, synthesize_records, write_records

FILES = {"index.html", "table.md", "table.tex", "table.csv", "runs.csv", "front.svg", "front.pdf"}
SEEDS = 3


@pytest.fixture
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An outputs folder with five rows of three seeds, in the current folder."""
    monkeypatch.chdir(tmp_path)
    return write_records(tmp_path / "outputs", synthesize_records(SEEDS))


@pytest.fixture
def ablation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An ablation whose rows have run with three seeds each, and once with other settings."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "05_small.yaml"
    rows = {"control": ["pipeline=control"], "half": ["pipeline.stages.prune.sparsity=0.5"]}
    rows["order"] = {"orders": ["prune", "quantize"]}  # type: ignore[assignment]
    base = ["pipeline=prune_quantize", "tracking=none"]
    values = {"claim": "Half is enough.", "control": "control", "seeds": [0, 1, 2], "base": base, "rows": rows}
    path.write_text(yaml.safe_dump({**values, "margin": 2.0, "columns": ["accuracy/test", "size/file_bytes"]}))
    spec = read_spec(path, [])

    def make_record(name: str, seed: int, number: int) -> Record:
        row = next(row for row in spec.rows if row.name == name)
        tags = {"ablation": "05_small", "row": name, "measured": "x"}
        stages = ("train",) if name == "control" else ("train", "prune", "quantize")
        config = deepcopy(compose_with_seed(row, seed).plain)
        return synthesize_record(name, seed, stages, number=100 + number, config=config, tags=tags)

    names = [row.name for row in spec.rows if row.refused is None]
    assert names == ["control", "half", "order prune>quantize"]
    finished = [make_record(name, seed, 10 * seed + index) for index, name in enumerate(names) for seed in range(SEEDS)]
    stale = make_record("half", 0, 90)
    stale.config["pipeline"]["stages"]["prune"]["sparsity"] = 0.4
    failed = make_record("half", 1, 91)
    failed.status, failed.reason = "failed", "the loss is NaN"
    foreign = synthesize_record("half", 0, number=192)
    write_records(tmp_path / "outputs", iter([*finished, stale, failed, foreign]))
    return path


def run_report(*arguments: str) -> int:
    return main(["report", *arguments])


def count_runs(folder: str | Path) -> int:
    return len((Path(folder) / "runs.csv").read_text().splitlines()) - 1


def test_report_of_an_ablation(ablation: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_report(str(ablation)) == 0
    out, err = capfd.readouterr()
    folder = ablation.parent / "results" / "05_small"
    assert {path.name for path in folder.iterdir()} >= FILES
    assert f"Page    {folder}/index.html" in out
    table = (folder / "table.md").read_text()
    assert "Half is enough." in table
    assert "- order quantize\\>prune (refused): pipeline.order: 'prune' cannot follow" in table
    assert "'half' was tested with 2 different settings: they may have been chosen on test" in table
    assert "no worse than the control by 2 pp" in table
    assert err.count("lightexp: ") == 1
    assert "is left out, it is failed: the loss is NaN" in err
    assert count_runs(folder) == 9
    assert "lightexp ablate" in table


def test_report_of_a_copied_ablation_finds_its_runs(ablation: Path, capfd: pytest.CaptureFixture[str]) -> None:
    copy = ablation.with_name("renamed.yaml")
    copy.write_text(ablation.read_text().replace("half:", "a half:"))
    spec = read_spec(copy, [])
    for path in sorted(Path("outputs/runs").glob("*/record.json")):  # `ablation` wrote no real tag of measurements
        record = read_record(path.parent)
        if record.tags.get("measured"):
            record.tags = make_tags(record.tags["ablation"], record.tags["row"], spec.rows[0].settings)
            record.write(path.parent)
    assert run_report(str(copy)) == 0
    folder = ablation.parent / "results" / "renamed"
    assert count_runs(folder) == 9
    table = (folder / "table.md").read_text()
    assert "| a half |" in table
    assert "'a half' was tested with 2 different settings" in table
    assert capfd.readouterr().err.count("is left out, it is failed") == 1


def test_report_of_an_ablation_takes_what_to_show(ablation: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shown = ["columns=[size/file_bytes]", "labels={half: a half}", "report.latex={columns: 2}", "stars=none", "out=x"]
    assert run_report(str(ablation), *shown) == 0
    table = Path("x/table.md").read_text()
    assert "| Row | File bytes ↓ | Δ accuracy (pp) |" in table
    assert "| a half |" in table
    assert "lightexp report" in table
    assert "'columns=[size/file_bytes]'" in table
    assert "latex={columns" in Path("x/table.tex").read_text()
    assert run_report(str(ablation), "labels={hlaf: x}") == 2
    assert "labels: no row is named 'hlaf': did you mean 'half'?" in capfd.readouterr().err


def test_report_of_runs_takes_what_to_show(outputs: Path) -> None:
    assert run_report("outputs", "columns=[accuracy/test,{measurement: size/ratio, heading: Times}]", "out=x") == 0
    head = next(line for line in Path("x/table.md").read_text().splitlines() if line.startswith("| Row"))
    assert head == "| Row | Accuracy test ↑ | Δ accuracy (pp) | Times ↑ |"


def test_report_needs_no_tensorflow(ablation: Path) -> None:
    code = "import sys\nfrom lightexp.cli.main import main\ncode = main(sys.argv[1:])\n"
    code += "print(code, [m for m in ('tensorflow', 'tf_keras', 'ai_edge_litert', 'mlflow') if m in sys.modules])"
    process = subprocess.run([sys.executable, "-c", code, "report", str(ablation)], capture_output=True, text=True)
    assert process.stdout.splitlines()[-1] == "0 []", process.stderr


def test_report_of_runs_leaves_out_unusable_records(outputs: Path, capfd: pytest.CaptureFixture[str]) -> None:
    broken = sorted(outputs.glob("runs/*/record.json"))[0]
    broken.write_text(broken.read_text()[:100])
    assert run_report("outputs", "out=elsewhere", "only=both") == 0
    out, err = capfd.readouterr()
    assert "is not a record" in err
    assert len(err.splitlines()) == 1
    assert {path.name for path in Path("elsewhere").iterdir()} >= FILES
    assert "control (of the runs)" in out
    assert "both, harder" in out
    assert "fewer than 5 operating points" in out


def test_report_of_runs_has_a_default_folder(outputs: Path) -> None:
    assert run_report("outputs") == 0
    assert Path("outputs/reports/outputs/index.html").is_file()


def test_report_of_single_runs(outputs: Path) -> None:
    folders = [str(path.parent) for path in sorted(outputs.glob("runs/*/record.json"))[1:4]]
    assert run_report(*folders, "out=few") == 0
    assert count_runs("few") == 3


def test_report_of_a_study_takes_the_tested_front(outputs: Path) -> None:
    study = Path("outputs/searches/one")
    for number, trial in enumerate(synthesize_records(1)):
        for name in ("front", "trials") if number < 2 else ("trials",):
            folder = study / name / f"{number:04d}"
            folder.mkdir(parents=True)
            trial.write(folder)
    assert run_report(str(study), "out=trials") == 0
    goals = {"objectives": ["accuracy/val", "size/gzip_bytes"], "constraints": ["size/gzip_bytes <= 100 KiB"]}
    (study / "front.json").write_text(json.dumps({"hypervolume": [0.1, 0.3, 0.4], **goals}))
    for name in ("importance", "slices", "parallel"):
        (study / f"{name}.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    assert run_report(str(study)) == 0
    folder = Path("outputs/reports/one")
    assert (folder / "hypervolume.svg").is_file()
    assert count_runs(folder) == 2
    table = (folder / "table.md").read_text()
    assert "| Row | Accuracy val ↑ | Gzip bytes ↓ |" in table
    assert "| trial 0 (infeasible) |" in table
    assert "| trial 1 |" in table
    assert "Hypervolume of size and error" not in table
    page = (folder / "index.html").read_text()
    assert '["hypervolume of the study","0.400"]' in page
    assert re.search(r'"kind":\["control","infeasible","row"\]', page)
    assert all(f"({name}.svg)" in page for name in ("importance", "slices", "parallel"))
    assert '"size":"size/gzip_bytes"' in page  # the study's own axis
    goals["constraints"] = ["npu/ethos_u55_128/us <= 1 ms"]  # which no trial has
    (study / "front.json").write_text(json.dumps(goals))
    assert run_report(str(study)) == 0
    assert (folder / "table.md").read_text().count("(infeasible) |") == 2
    shutil.rmtree(study / "trials")  # where workers on other hosts have made them
    assert run_report(str(study)) == 0
    assert count_runs(folder) == 2
    shutil.rmtree(study / "front")
    assert run_report(str(study)) == 2


def test_report_of_an_mlflow_experiment(
    outputs: Path, capfd: pytest.CaptureFixture[str], copy_database: Callable[[Path], None]
) -> None:
    messages: list[str] = []
    copy_database(Path("theirs"))
    uri = f"sqlite:///{Path.cwd()}/theirs/mlflow.db"
    mirror = Mlflow(uri, "paper").open_mirror(Path("elsewhere"), messages.append)
    for folder in sorted(Path("outputs/runs").iterdir())[:4]:
        mirror.sync(folder)
    assert messages == []
    first = next(Path("elsewhere").rglob("record.json"))
    first.write_text("{}")
    assert run_report(f"tracking.uri={uri}", "tracking.experiment=paper", "out=paper") == 0
    out, err = capfd.readouterr()
    assert "MLflow run" in err
    assert len(err.splitlines()) == 1
    assert count_runs("paper") == 3
    assert "lightexp report tracking.uri=sqlite" in Path("paper/table.md").read_text()
    assert run_report(f"tracking.uri={uri}", "tracking.experiment=papre") == 2
    assert "'papre' is not at sqlite" in capfd.readouterr().err
    assert out


@pytest.mark.parametrize("arguments", [("--compare", "outputs", "other"), ("outputs", "--compare", "other")])
def test_compare_two_outputs_folders(
    outputs: Path, capfd: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    others = (synthesize_record("both", seed, number=seed, lost=0.01, tags={"row": "both"}) for seed in range(SEEDS))
    write_records(Path("other"), others)
    assert run_report(*arguments) == 0
    out = capfd.readouterr().out
    assert "Second - first" in out
    line = next(line for line in out.splitlines() if "Accuracy test" in line)
    assert "-0.01 [-0.01, -0.01]" in line


def test_compare_two_ablations(outputs: Path, ablation: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_records(
        Path("other"), (synthesize_record("both", seed, number=seed, tags={"row": "both"}) for seed in range(SEEDS))
    )
    assert run_report("--compare", str(ablation), str(ablation)) == 0
    assert run_report("--compare", str(ablation), "other") == 2
    assert "no row in common" in capfd.readouterr().err


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_describes_every_use(capfd: pytest.CaptureFixture[str], flag: str) -> None:
    with pytest.raises(SystemExit) as end:
        run_report(flag)
    assert end.value.code == 0
    text = capfd.readouterr().out
    for use in (
        "lightexp report experiments/01_article.yaml",
        "--compare A B",
        "tracking.experiment=NAME",
        "only=TEXT",
    ):
        assert use in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere is not a folder"),
        (["nowhere.yaml"], "nowhere.yaml does not exist"),
        (["empty"], "there is no finished run to report"),
        (["outputs", "only=zzz"], "only=zzz: no finished run"),
        (["outputs", "colums=[x]"], "colums is not a setting of a report of runs: did you mean 'columns'?"),
        (["outputs", "columns=[accuracy/tset]"], "no run has measured 'accuracy/tset': did you mean 'accuracy/test'?"),
        (["outputs", "columns=[a"], "columns must be YAML"),
        (["outputs", "latex={columns: 3}"], "latex.columns: Input should be less than or equal to 2"),
        (["outputs", "latex.width=1in"], "width must be 150pt or more, such as 345pt"),
        (["outputs", "labels={nobody: x}"], "labels: no row is named 'nobody'"),
        (["outputs", "olny=x"], "olny is not a setting of a report of runs: did you mean 'only'?"),
        (["outputs", "--compere", "x"], "--compere is not a flag of lightexp report: did you mean '--compare'?"),
        (["--compare", "outputs"], "--compare takes two"),
        (["--compare", "outputs", "empty"], "--compare: empty: there is no finished run"),
        (["broken"], "lightexp ablate or run. 1 cannot be used; the first: broken/runs/x/record.json is not a record"),
        (["a.yaml", "outputs"], "a report covers one ablation"),
        (["outputs", "tracking.uri=x"], "a report covers folders or an MLflow experiment"),
        (["tracking.uri=sqlite:///none.db"], "none.db is not there"),
        (["tracking.uri=/folder"], "MLflow keeps no runs in plain folders"),
        (["tracking.uri=http://127.0.0.1:9"], "MLflow at http://127.0.0.1:9 cannot be used"),
        (["outputs", "out=outputs/runs/2026-01-01_00-00-00-000000/record.json"], "cannot be written"),
        ([], ""),
    ],
)
def test_bad_input_is_one_line(
    outputs: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    Path("empty").mkdir()
    Path("broken/runs/x").mkdir(parents=True)
    Path("broken/runs/x/record.json").write_text("{")
    assert run_report(*arguments) == 2
    err = capfd.readouterr().err
    assert message in err
    assert len(err.splitlines()) == bool(message)


def test_different_data_are_refused(outputs: Path, capfd: pytest.CaptureFixture[str]) -> None:
    other = synthesize_record(
        number=999, dataset={"name": "mnist", "splits": {"test": {"n": 1, "digest": "z"}}}, name="x mnist y"
    )
    write_records(outputs, iter([other]))
    assert run_report("outputs") == 2
    assert "the runs saw different data (15 runs of digits and 1 runs of mnist)" in capfd.readouterr().err
    assert run_report("outputs", "only=digits") == 0


def test_report_of_many_records_shows_progress(
    outputs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightexp.cli.report._MANY_RECORDS", 15)
    monkeypatch.setattr("lightexp.cli.printing._LINE_INTERVAL_S", 0.0)
    assert run_report("outputs", "figures=[front]") == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[:15] == [f"{number} records read ..." for number in range(1, 16)]
    assert lines[15] == "making the report of 15 records"


def test_report_counts_unusable_records_beyond_twenty(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(23):
        (outputs / "runs" / f"broken {number}").mkdir()
        (outputs / "runs" / f"broken {number}" / "record.json").write_text("{")
    assert run_report("outputs", "figures=[front]") == 0
    lines = capsys.readouterr().err.splitlines()
    assert len([line for line in lines if "is not a record" in line]) == 20
    assert lines[-1] == "lightexp: 23 records are left out in all; the first 20 are named"
