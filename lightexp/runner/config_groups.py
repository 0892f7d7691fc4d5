"""The groups and choices of the config folders, by their files. Imports nothing slow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lightexp.core.errors import BadInput, suggest_nearest
from lightexp.core.regular_files import read_text
from lightexp.core.yaml_text import check_config_file
from lightexp.runner.config_dir import find_config_dir

_GLOBAL_PACKAGE = "# @package _global_"


class ConfigGroups:
    """The groups of lightexp's config folder and of the user's own folders."""

    def __init__(self, folders: Sequence[str] = ()) -> None:
        """Remember where to look.

        Args:
            folders: The user's own folders. Defaults to none.
        """
        self._folders = [find_config_dir(), *map(Path, folders)]

    def list_groups(self) -> list[str]:
        """Return the names of the groups, sorted."""
        names = {path.name for folder in self._folders for path in folder.iterdir() if path.is_dir()}
        return sorted(name for name in names if self._find_files(name))

    def list_choices(self, group: str) -> list[str]:
        """Return the names of a group's choices, sorted.

        Raises:
            BadInput: If there is no such group.
        """
        groups = self.list_groups()
        if group in groups:
            return sorted(self._find_files(group))
        owners = [f"{name}/{group}" for name in groups if group in self._find_files(name)]
        advice = f"did you mean {' or '.join(owners)}?" if owners else suggest_nearest(group, groups)
        raise BadInput(f"{group} is not a group: {advice}")

    def find_file(self, group: str, choice: str) -> Path:
        """Return the file of a choice.

        Raises:
            BadInput: If there is no such group or choice.
        """
        choices = self.list_choices(group)
        if choice not in choices:
            raise BadInput(f"{group}/{choice}: no such choice, {suggest_nearest(choice, choices)}")
        return self._find_files(group)[choice]

    def _find_files(self, group: str) -> dict[str, Path]:
        """Return a group's files by choice; of two of one name, lightexp's own counts, as for Hydra."""
        files = [path for folder in reversed(self._folders) for path in (folder / group).glob("[!_]*.yaml")]
        return {path.stem: path for path in files}


def read_config(path: Path) -> str:
    """Return the text of a config file.

    Raises:
        BadInput: If it is no regular file of UTF-8 text, or its aliases expand to too many values.
    """
    check_config_file(path)
    return read_text(path)


def read_purpose(path: Path) -> list[str]:
    """Return the lines of the comment at the beginning of a config file."""
    lines = []
    for line in read_config(path).splitlines():
        if line != _GLOBAL_PACKAGE:
            if not line.startswith("#"):
                break
            lines.append(line.lstrip("# "))
    return lines


def sets_complete_config(path: Path) -> bool:
    """Return whether a file sets a complete config instead of one node."""
    return read_config(path).startswith(_GLOBAL_PACKAGE)
