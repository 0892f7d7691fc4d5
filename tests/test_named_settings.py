"""Commands and settings that documents and help texts name, but that no test runs: each exists."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

from lightexp.cli.arguments import Arguments, is_setting
from lightexp.cli.main import COMMANDS, HELP
from lightexp.runner import choice_settings
from lightexp.runner.config_dir import PRIMARY_CONFIG, find_config_dir
from lightexp.runner.config_groups import ConfigGroups
from tests.documents import BLOCKS, DOCUMENTS, ROOT

GROUPS = ConfigGroups()
TOP = choice_settings.list_changes(find_config_dir() / f"{PRIMARY_CONFIG}.yaml")
PLACES = {*GROUPS.list_groups(), *(name.partition(".")[0] for name in TOP if "/" not in name)} - {"hydra"}
OWN_SETTINGS = {
    "ablate": {"workers"},
    "report": {"columns", "labels", "margin", "stars", "figures", "latex", "out", "only"},
}
OPEN_MAPPINGS = ("deploy.targets.", "deploy.npus.", "dataset.scaling", "dataset.augment")
"""Places below which a user names things, or that hold settings."""
NO_SETTINGS = ("model.fit", "model.eval", "model.metadata", "model.predict")
"""Attributes of Keras' and MLflow's models."""
_SETTING = re.compile(rf"[+~]?((?:{'|'.join(sorted(PLACES))})(?:\.\w+)+)(?:=|$)")
_FILE = re.compile(r"\.(tflite|json|jsonl|h|cc|svg|lxe|py|md|csv|keras|h5)$")
_PATH = re.compile(r"(?:lightexp|conf|experiments|tests|\.ci)/[\w/.-]+")
_EXAMPLE_PATH = re.compile(r"/my_|/NAME|round_weights|_conf/")
"""Files that the reader writes, and the folder of a wheel."""


def read_prose(path: Path) -> str:
    """Return a document without what its blocks of code hold."""
    return re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def list_code(path: Path) -> list[str]:
    """Return the pieces of code in the sentences of a document."""
    return re.findall(r"`([^`\n]+)`", read_prose(path))


def list_help_texts() -> Iterator[tuple[str, str]]:
    """Yield each command with its help."""
    yield "", HELP
    for command in COMMANDS:
        parser: Arguments = import_module(f"lightexp.cli.{command}").make_parser()
        yield command, parser.description or ""


def list_commands() -> dict[str, str]:
    """Return all command lines, each with where it is."""
    lines = [(line, block.document) for block in BLOCKS for line in block.text.replace("\\\n", " ").splitlines()]
    lines += [(code, path.name) for path in DOCUMENTS for code in list_code(path)]
    commands = {line: place for line, place in lines if line.startswith("lightexp ")}
    for command, text in list_help_texts():
        for line in re.findall(r"^ +(lightexp .+)$", text, re.MULTILINE):
            commands[line.partition("  ")[0]] = f"lightexp {command} --help"
    return commands


@cache
def list_settings() -> frozenset[str]:
    """Return the dotted names of all settings; those of a stage are below `stage`."""
    names = set(TOP)
    for group in set(GROUPS.list_groups()) - {"experiment"}:  # experiments are presets of complete configs
        for choice in GROUPS.list_choices(group):
            path = GROUPS.find_file(group, choice)
            node = choice_settings.compose_choice(group, path)
            names |= {f"{group}.{setting.name}" for setting in choice_settings.describe_settings(node, path)}
    return frozenset(names)


def find_unknown_setting(word: str) -> str | None:
    """Return the name of a setting that does not exist, if a word names one."""
    match = _SETTING.match(word)
    if not match or match[1].startswith((*OPEN_MAPPINGS, *NO_SETTINGS)) or _FILE.search(match[1]):
        return None
    name = re.sub(r"^pipeline\.stages\.\w+\.objective\.", "objective.", match[1])
    name = re.sub(r"^pipeline\.stages\.\w+\.", "stage.", name)
    is_place = any(setting.startswith(f"{name}.") for setting in list_settings())
    return None if is_place or name in list_settings() or re.fullmatch(r"pipeline\.stages\.\w+", name) else match[1]


def check_command(line: str) -> None:
    """Fail if a command line has an unknown command, flag or setting."""
    command, *arguments = shlex.split(line.replace("...", ""), comments=True)[1:] or [""]
    if not command or command.isupper() or command.startswith("--"):  # a placeholder, or the program itself
        return
    assert command in COMMANDS
    parser: Arguments = import_module(f"lightexp.cli.{command}").make_parser()
    flags = set(parser.flags)
    if any(parser.choices.values()):
        assert {word for word in arguments if word[0] != "-"} & set(parser.choices) or not arguments
    for word in arguments:
        if (subcommand := parser.choices.get(word)) is not None:
            flags |= set(subcommand.flags)
        if word.startswith("-"):
            assert word.partition("=")[0] in {*flags, "--help"}
        elif is_setting(word):
            name = word.lstrip("+~").partition("=")[0]
            assert find_unknown_setting(word) is None
            is_known = "." in name or "/" in name or name.partition("@")[0] in PLACES
            assert is_known or name in {"setting", *OWN_SETTINGS.get(command, ())}


@pytest.mark.parametrize(("line", "place"), list_commands().items())
def test_command_line_has_known_flags_and_settings(line: str, place: str) -> None:
    check_command(line)


@pytest.mark.parametrize(
    "line", ["lightexp store drop", "lightexp run --dry", "lightexp run store.remotes=x", "lightexp x"]
)
def test_wrong_command_line_is_noticed(line: str) -> None:
    with pytest.raises(AssertionError):
        check_command(line)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_settings_in_sentences_exist(path: Path) -> None:
    parts = [part.strip("'\"()[],:;") for code in list_code(path) for part in code.split()]
    assert [name for part in parts if (name := find_unknown_setting(part))] == []


@pytest.mark.parametrize(
    "path", [*DOCUMENTS, ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md"], ids=lambda path: path.name
)
def test_paths_in_sentences_exist(path: Path) -> None:
    paths = {word for code in list_code(path) for word in code.split() if _PATH.fullmatch(word)}
    assert [name for name in sorted(paths) if not (ROOT / name).exists() and not _EXAMPLE_PATH.search(name)] == []
