"""What the Tab key offers, in the shells themselves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lightexp.cli.completion import complete_line
from lightexp.cli.main import COMMANDS, main
from tests.cli.commands import COMMAND, environment, lightexp
from tests.system_packages import require_program

QUIET = "import sys; from lightexp.cli.main import main; main(sys.argv[1:]); "
QUIET += "assert not {'tensorflow', 'mlflow', 'sklearn', 'ai_edge_litert'} & set(sys.modules), sorted(sys.modules)"


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("lightexp ", {*COMMANDS, "--help", "--version"}),
        ("lightexp st", {"store"}),
        ("lightexp --v", {"--version"}),
        ("lightexp nothing ", set()),
        ("lightexp run mod", {"model.", "model="}),
        ("lightexp run model=len", {"model=lenet5", "model=lenet_300_100"}),
        ("lightexp run --plan seed=1 pipeline=prune pipeline.stages.prune.spars", {"pipeline.stages.prune.sparsity="}),
        ("lightexp run pipeline=quantize pipeline.stages.prune.spars", set()),  # the settings before count
        ("lightexp run 'pipeline.order=[a, b]' runtime.", {"runtime.threads="}),
        ("lightexp run 'pipeline.order=[a", set()),
        ("lightexp run sed=1 paths.", set()),
        ("lightexp run stage@pipeline.stages.prune=qu", {"stage@pipeline.stages.prune=quantize"}),
        ("lightexp run +stage@pipeline.stages.a=tr", {"+stage@pipeline.stages.a=train"}),
        ("lightexp run --pl", {"--plan"}),
        ("lightexp run -", None),
        ("lightexp search -", {"--plan", "--pick", "--config-dir", "--help", "-h"}),
        ("lightexp search search.samp", {"search.sampler="}),
        ("lightexp search search=mixed", {"search=mixed_precision"}),
        ("lightexp ablate x.yaml --p", {"--plan"}),
        ("lightexp store ", {"ls", "verify", "gc", "push", "pull"}),
        ("lightexp store v", {"verify"}),
        ("lightexp store gc --o", {"--older-than"}),
        ("lightexp store gc --older-than ", set()),
        ("lightexp store gc --dry-run --max-size 1G paths.", {"paths.outputs="}),
        ("lightexp ui --p", {"--port"}),
        ("lightexp guide ke", {"keras"}),
        ("lightexp describe stage/pr", {"stage/prune", "stage/prune_channels"}),
        ("lightexp describe stage/prune ", set()),
        ("lightexp completion ", {"bash", "zsh", "fish"}),
        ("lightexp completion bash ", set()),
    ],
)
def test_complete_line_offers_what_may_follow(line: str, offered: set[str] | None) -> None:
    offers = complete_line(line)
    if offered is None:
        assert {"--plan", "--multirun", "-m", "--config-dir"} <= set(offers)
    else:
        assert set(offers) == offered


def test_complete_line_hides_internal_settings() -> None:
    offers = complete_line("lightexp run ")
    assert {"dataset=", "model=", "pipeline=", "seed=", "model.", "pipeline."} <= set(offers)
    assert not any(name.startswith(("hydra", "_")) for name in offers)
    assert "dataset=digits" in complete_line("lightexp run dataset=")
    assert not any("=_" in name for name in complete_line("lightexp run dataset="))
    assert "model._target_=" not in complete_line("lightexp run model.")
    assert any(name.startswith("hydra.") for name in complete_line("lightexp run hydra."))


def test_query_imports_nothing_heavy(tmp_path: Path) -> None:
    for line in ("lightexp ", "lightexp run model=", "lightexp store gc --"):
        result = lightexp("completion", "query", line, cwd=tmp_path, program=[sys.executable, "-c", QUIET])
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout


def run_in_shell(shell: str, script: str, cwd: Path) -> list[str]:
    path = "bash" if shell == "bash" else require_program(shell)
    flags = {"bash": ["--norc", "--noprofile"], "zsh": ["-f"], "fish": ["--no-config"]}[shell]
    home = {**environment(), "PATH": f"{COMMAND.parent}:{os.environ['PATH']}", "HOME": str(cwd)}
    result = subprocess.run([path, *flags, "-c", script], cwd=cwd, env=home, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


@pytest.mark.parametrize(
    ("line", "breaks", "offered"),
    [
        ("lightexp sto", True, ["store"]),
        ("lightexp run model=len", True, ["lenet5", "lenet_300_100"]),  # bash replaces what follows '='
        ("lightexp run model=len", False, ["model=lenet5", "model=lenet_300_100"]),
        ("lightexp run stage@pipeline.stages.prune=tr", True, ["train"]),
        ("lightexp run stage@pipe", True, []),
        ("lightexp run model=lenet5 pipeline.st", True, ["pipeline.stages."]),
        ("lightexp run model=lenet5 nothing", True, []),
    ],
)
def test_bash_is_offered_what_it_inserts(line: str, breaks: bool, offered: list[str], tmp_path: Path) -> None:
    keep = "" if breaks else 'COMP_WORDBREAKS="${COMP_WORDBREAKS//=}"; '
    script = f"""eval "$(lightexp completion bash)"; {keep}
    complete -p lightexp | grep -q -- '-F _lightexp' || exit 3
    COMP_LINE='{line} more'; COMP_POINT={len(line)}; _lightexp 2>/dev/null
    if ((${{#COMPREPLY[@]}})); then compgen -W "${{COMPREPLY[*]}}"; fi"""
    assert run_in_shell("bash", script, tmp_path) == offered


def test_zsh_is_offered_the_same(tmp_path: Path) -> None:
    script = """autoload -Uz compinit && compinit -D
    eval "$(lightexp completion zsh)"
    [[ $_comps[lightexp] == _lightexp ]] || exit 3
    compadd() { print -r -- "$*" }
    LBUFFER='lightexp run model=len'; _lightexp
    LBUFFER='lightexp run pipeline.st'; _lightexp"""
    lines = run_in_shell("zsh", script, tmp_path)
    assert lines == ["-Q -- model=lenet5", "-Q -- model=lenet_300_100", "-Q -S  -- pipeline.stages."]


def test_fish_is_offered_the_same(tmp_path: Path) -> None:
    script = "lightexp completion fish | source; complete -C 'lightexp run model=len'"
    assert run_in_shell("fish", script, tmp_path) == ["model=lenet5", "model=lenet_300_100"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["completion"], "the following arguments are required: SHELL"),
        (["completion", "basj"], "'basj' is not a SHELL of lightexp completion: did you mean 'bash'?"),
    ],
)
def test_unknown_shell_is_one_line(argv: list[str], message: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    captured = capfd.readouterr()
    assert captured.out == "" and len(captured.err.splitlines()) == 1
    assert message in captured.err
