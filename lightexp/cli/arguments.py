"""The command line of a command that is no Hydra application: argparse's flags, and settings as `lightexp run` has."""

from __future__ import annotations

import argparse
import re
from typing import Any, NoReturn

from lightexp.core.errors import BadInput, suggest_nearest


class Arguments(argparse.ArgumentParser):
    """Flags whose every complaint is one line, beside overrides such as `paths.outputs=FOLDER`."""

    def __init__(self, command: str = "", **more: Any) -> None:
        """Makes the parser of `lightexp COMMAND`, whose description is shown as it is written."""
        more.setdefault("prog", f"lightexp {command}")
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **more)

    @property
    def flags(self) -> list[str]:
        """All flags, long ones first."""
        return sorted(self._option_string_actions, key=lambda name: (not name.startswith("--"), name))

    @property
    def choices(self) -> dict[str, Arguments | None]:
        """The words that may come first, each with the parser of what follows it, if more may follow."""
        for action in self._actions:
            if not action.option_strings and action.choices:
                parsers = action.choices if isinstance(action.choices, dict) else dict.fromkeys(action.choices)
                return dict(parsers)
        return {}

    def takes_value(self, flag: str) -> bool:
        """Whether the word after `flag` is its value."""
        action = self._option_string_actions.get(flag)
        return action is not None and action.nargs != 0

    def with_folders(self) -> Arguments:
        """This, with the flag for the user's own config folders; `read` has their groups found."""
        # Without a default: a subcommand's would take the place of what stood before its name.
        absent = argparse.SUPPRESS
        self.add_argument("--config-dir", action="append", metavar="DIR", default=absent, help="your own config groups")
        return self

    def read(self, words: list[str]) -> tuple[argparse.Namespace, list[str]]:
        """Reads the words after the command.

        Returns:
            The flags, and the overrides.

        Raises:
            BadInput: For a flag that does not exist, or a word that is neither.
        """
        flags, rest = self.parse_known_args(words)
        for word in rest:
            if word.startswith("-") or "=" not in word:
                self.error(f"unrecognized arguments: {word}")
        if folders := getattr(flags, "config_dir", None):
            from lightexp.runner.compose import add_config_dirs

            add_config_dirs(folders)
        return flags, rest

    def parse_known_args(self, *words: Any) -> Any:  # type: ignore[override]
        """As argparse's, but a flag that is not this command's is refused by this command."""
        found, rest = super().parse_known_args(*words)
        if wrong := [word for word in rest if word.startswith("-")]:
            self.error(f"unrecognized arguments: {wrong[0]}")
        return found, rest

    def error(self, message: str) -> NoReturn:
        """Raises BadInput in the words of argparse, with the nearest flag where one is misspelt."""
        if found := re.fullmatch(r"unrecognized arguments: (\S+).*", message):
            word = found[1].partition("=")[0]
            known = [name for name in self._option_string_actions if name.startswith("--")]
            hint = (
                suggest_nearest(word, known)
                if word.startswith("-")
                else f"settings are written name=value; see {self.prog} --help"
            )
            raise BadInput(f"{word} is not a word of {self.prog}: {hint}")
        if found := re.fullmatch(r"argument (\S+): invalid choice: '(.*)' \(choose from (.*)\)", message):
            choices = [choice.strip(" '") for choice in found[3].split(",")]
            raise BadInput(f"'{found[2]}' is not a {found[1]} of {self.prog}: {suggest_nearest(found[2], choices)}")
        raise BadInput(f"{self.prog}: {message}. {self.prog} --help shows how.")
