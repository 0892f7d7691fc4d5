"""`lightexp guide`: its topics, and a guide on a terminal and in a file."""

from __future__ import annotations

import re
import sys
from io import StringIO
from pathlib import Path

import pytest

from lightexp.cli.guide import FOLDER, read_titles, render, run
from lightexp.cli.printing import make_console
from lightexp.core.errors import BadInput
from tests.cli.commands import lightexp

QUIET = "import sys; from lightexp.cli.main import main; code = main(sys.argv[1:]); "
QUIET += "assert not {'tensorflow', 'numpy', 'hydra', 'mlflow'} & set(sys.modules), sorted(sys.modules); sys.exit(code)"


def test_topics_are_the_files(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[: len(read_titles())]] == sorted(
        path.stem for path in FOLDER.glob("*.md")
    )
    assert all(read_titles().values())


def test_guide_is_its_markdown_without_comments_in_a_file(tmp_path: Path) -> None:
    done = lightexp("guide", "layers", cwd=tmp_path, program=[sys.executable, "-c", QUIET])
    assert (done.returncode, done.stderr) == (0, "")
    text = re.sub(r"<!--.*?-->\n", "", (FOLDER / "layers.md").read_text(), flags=re.DOTALL)
    assert done.stdout.strip() == text.strip()


def test_render_keeps_long_commands_on_one_line() -> None:
    command = "lightexp run " + " ".join(f"setting{n}=value" for n in range(20))
    stream = StringIO()
    render(make_console(stream, 60), f"# Title\n\n**Bold** words.\n\n```bash\n{command}\n```\n")
    assert f"\n{command}\n" in stream.getvalue()
    assert "**" not in stream.getvalue()


def test_render_breaks_long_words_of_tables() -> None:
    stream = StringIO()
    render(make_console(stream, 20), "| Stage | Error |\n|-|-|\n| prune_channels | unforeseeable |\n")
    assert "…" not in stream.getvalue()
    assert "".join(re.findall(r"^ +(\w+)", stream.getvalue(), re.MULTILINE)).endswith("prune_channels")


def test_unknown_topic_names_the_nearest() -> None:
    with pytest.raises(BadInput, match=r"'layer' is not a TOPIC of lightexp guide: did you mean 'layers'\?"):
        run(["layer"])


def read_messages() -> str:
    """Return the source of lightexp with each text on one line, and `…` for what it quotes."""
    source = "\n".join(path.read_text(encoding="utf-8") for path in FOLDER.parent.rglob("*.py"))
    joined = re.sub(r"""["']\s*\n\s*f?["']""", "", source)
    return re.sub(r"\{[^{}]*\}", "…", joined).replace("\\'", "'")


def test_troubleshooting_quotes_real_messages() -> None:
    text = (FOLDER / "troubleshoot.md").read_text()
    quoted = re.findall(r"^\| `(.+?)` \|", text, re.MULTILINE)
    messages = read_messages()
    assert len(quoted) > 30
    assert [message for message in quoted if message not in messages] == []
