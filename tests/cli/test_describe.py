"""`lightexp describe`: groups, choices and their settings."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from lightexp.cli.describe import run
from lightexp.core.errors import BadInput
from lightexp.runner.config_groups import ConfigGroups
from tests.cli.commands import lightexp

QUIET = "import sys; from lightexp.cli.main import main; code = main(sys.argv[1:]); "
QUIET += "assert not {'tensorflow', 'mlflow', 'sklearn', 'matplotlib', 'pandas'} & set(sys.modules); sys.exit(code)"


def test_groups_and_choices_have_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line]
    assert set(ConfigGroups().list_groups()) <= set(names)
    assert run(["stage"]) == 0
    assert "\nquantize " in capsys.readouterr().out


def test_settings_in_no_group_are_described(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 0
    listed = capsys.readouterr().out.partition("In no group:")[2]
    names = [line.partition("=")[0] for line in listed.splitlines() if line[:1].strip()]
    assert names == ["seed", "runtime.threads", "paths.outputs", "store.remote", "plugins"]
    assert run(["store"]) == 0
    assert capsys.readouterr().out.startswith("store.remote=null  s3://BUCKET/PREFIX, ")


def test_stage_shows_order_papers_and_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["stage/prune"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "https://arxiv.org/abs/1710.01878" in text
    assert "After it cluster, encode, prune, qat, quantize" in text
    assert "sparsity: number ≥ 0, < 1; default 0.8; search interval(0.5, 0.98) Fraction of zeros" in text


def test_preset_shows_what_it_sets(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["experiment/article_prune"]) == 0
    assert "pipeline.stages.prune.end_step          1000" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["stag"], "stag is not a group: did you mean 'stage'?"),
        (["prune"], "prune is not a group: did you mean pipeline/prune or stage/prune?"),
        (["stage=prun"], "stage/prun: no such choice, did you mean 'prune'?"),
        (["net.pt"], "is a PyTorch file, which holds code, or weights without layers. Where the model was made, pip"),
        (["my nets/net.onnx"], "onnx2tf -i net.onnx -o converted"),
        (["net.keras"], "lightexp run --plan model=from_file model.path=net.keras"),
        (["stage", "model"], "one group or choice. Received: stage model"),
    ],
)
def test_unknown_words_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(BadInput) as error:
        run(words)
    assert message in str(error.value)


def test_users_own_choice_is_described(tmp_path: Path) -> None:
    (tmp_path / "stage").mkdir()
    (tmp_path / "stage" / "mine.yaml").write_text("# Mine.\n_target_: lightexp.stages.encode.Encode\n")
    (tmp_path / "stage" / "other.yaml").write_text("# Of a plugin.\n_target_: nowhere.Stage\n")
    words = ("describe", "--config-dir", str(tmp_path), "stage/mine")
    done = lightexp(*words, cwd=tmp_path, program=[sys.executable, "-c", QUIET])
    assert (done.returncode, done.stderr) == (0, "")
    assert "Mine." in done.stdout
    assert "Not tried      other" in done.stdout
    assert done.stdout.count("prune") > 1


def test_unreadable_file_hides_no_other_choice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "stage").mkdir()
    os.mkfifo(tmp_path / "stage" / "pipe.yaml")
    (tmp_path / "stage" / "mine.yaml").write_text("# Mine.\n")
    assert run(["--config-dir", str(tmp_path), "stage"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "mine            Mine." in lines
    [pipe] = [line for line in lines if line.startswith("pipe ")]
    assert "cannot be used as a config: it is a named pipe, not a file." in " ".join(lines)
    assert str(tmp_path) in pipe
    assert any(line.startswith("quantize ") for line in lines)


def test_users_broken_file_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "stage").mkdir()
    (tmp_path / "stage" / "broken.yaml").write_text("a: [1\nb: }")
    done = lightexp("describe", "--config-dir", str(tmp_path), "stage/broken", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "broken.yaml cannot be read as YAML: expected ',' or ']', but got ':' in line 2." in done.stderr


def test_shipped_choice_is_described_without_hydra(tmp_path: Path) -> None:
    code = "import sys; from lightexp.cli.main import main; code = main(['describe', 'stage/prune']); "
    code += "assert not {'hydra', 'omegaconf', 'scipy', 'sklearn', 'tensorflow'} & set(sys.modules); sys.exit(code)"
    done = lightexp(cwd=tmp_path, program=[sys.executable, "-c", code])
    assert (done.returncode, done.stderr) == (0, "")
