"""What commands answer without running anything: help, configs, bad input."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.commands import lightexp

HEAVY = ("tensorflow", "tf_keras", "ai_edge_litert", "mlflow", "sklearn", "matplotlib")
CHECK = f"""
import subprocess
import sys
from lightexp.cli.main import main
try:
    code = main(sys.argv[1:])
except SystemExit as end:  # of argparse, after its help
    code = end.code
assert not {set(HEAVY)!r} & set(sys.modules), sorted(sys.modules)
sys.exit(code)
"""


@pytest.mark.parametrize(
    ("argv", "shown"),
    [
        (["--help"], "Exit codes: 0 done"),
        ([], "Usage: lightexp COMMAND"),
        (["--version"], "lightexp 0."),
        (["run", "--help"], "pipeline: control, distill, distill_prune"),
        (["run", "--cfg", "job"], "_target_: lightexp.stages.prune.Prune"),
        (["run", "--cfg", "job", "model=lenet5"], "lightexp.models.lenet5.LeNet5"),
    ],
)
def test_help_and_configs_import_nothing_heavy(argv: list[str], shown: str, tmp_path: Path) -> None:
    result = lightexp(*argv, cwd=tmp_path, program=[sys.executable, "-c", CHECK])
    assert (result.returncode, result.stderr) == (0, "")
    assert shown in result.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["runn"], "'runn' is not a command: did you mean 'run'?"),
        (["run", "--plna"], "--plna is not a flag of lightexp run: did you mean '--plan'?"),
        (["run", "seeed=1"], "seeed is not a setting: did you mean 'seed'?"),
        (["run", "-m", "seed=0,1", "model.widht=2"], "model.widht is not a setting: did you mean 'width'? (in model)"),
        (["run", "model=lenet55"], "model=lenet55: no such choice, did you mean 'lenet5'?"),
        (["run", "deploy=[pico,nano34]"], "deploy=[nano34]: no such choice, did you mean 'nano33'?"),
        (["run", "model=null"], "model=null: a group takes the name of one of its choices"),
        (["run", "seed=1", "deploy=[pico,null]"], "deploy=[pico,null]: a group takes the name of one of its choices"),
        (["run", "deploy=[[pico]]"], "deploy=[[pico]]: a group takes the name of one of its choices"),
        (["run", "pipeline.stages.prune.sparsity=2"], "pipeline.stages.prune.sparsity: Input should be less than 1"),
        (["run", "pipeline.order=[train,quantize,prune]"], "'pipeline.order=[train,prune,quantize]'"),
        (["run", "--plan", "dataset=arrays", "dataset.path=nothere.npz"], "dataset.path=nothere.npz is not a file"),
        (["run", "dataset.augment.cutout=8"], "dataset.augment.cutout must be smaller than the image, (8, 8)."),
        (["run", "-m", "seeed=1,2"], "seeed is not a setting"),
        (["run", "seed=${sed}"], "Interpolation key 'sed' not found"),
        (["run", "--config-name=runs"], "'runs'. Check that it's in your config search path.\n"),
    ],
)
def test_run_refuses_bad_input_in_one_line(argv: list[str], message: str, tmp_path: Path) -> None:
    result = lightexp(*argv, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("lightexp: ")
    assert message in result.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "multirun.yaml"]
    if "-m" not in argv:  # Hydra makes a sweep's folder before it looks at the jobs
        assert not list(tmp_path.iterdir())


def test_plan_leaves_out_a_removed_stage(tmp_path: Path) -> None:
    result = lightexp("run", "--plan", "~stage@pipeline.stages.quantize", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert "train-prune" in result.stdout and "Quantize" not in result.stdout
    assert "digits: images (height, width, channels) of shape (8, 8, 1), 10 classes; 1,150 train, 288" in result.stdout
    misspelt = lightexp("run", "--plan", "+pipeline.stages.quantise.scheme=int8", cwd=tmp_path)
    assert (misspelt.returncode, misspelt.stdout) == (2, "")
    assert "pipeline.order does not name the stage 'quantise'" in misspelt.stderr


def test_run_refuses_outputs_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("unchanged")
    result = lightexp("run", "paths.outputs=file/outputs", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith(f"lightexp: paths.outputs: {tmp_path / 'file'} is not a folder.")
    assert len(result.stderr.splitlines()) == 1
    assert (tmp_path / "file").read_text() == "unchanged"


def test_interrupt_during_imports_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "hydra.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)\n")
    code = (
        f"import signal, sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from lightexp.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    result = lightexp("run", "tracking=none", cwd=tmp_path, program=[sys.executable, "-c", code])
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "lightexp: Interrupted.\n")


def test_help_of_run_is_hydras_and_needs_no_hydra(tmp_path: Path) -> None:
    code = "import sys; from lightexp.cli.main import main; code = main(['run', '--help']); "
    code += "assert not {'hydra', 'numpy', 'omegaconf'} & set(sys.modules); sys.exit(code)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    hydras = lightexp("run", "--help", f"--config-dir={tmp_path}", cwd=tmp_path).stdout
    assert done.stdout.split() == [word for word in hydras.split() if not word.startswith("_")]
