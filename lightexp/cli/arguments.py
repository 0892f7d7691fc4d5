"""Command-line parsing that all commands share: argparse flags, and settings written `name=value` as Hydra has them.

A command's module has `make_parser() -> Arguments` and `run(argv) -> exit code`. `lightexp run` leaves the parsing
itself to Hydra; its `Arguments` describe Hydra's flags, for checking and for shell completion.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from typing import Any, NoReturn

from lightexp.core.errors import BadInput, suggest_nearest


class Arguments(argparse.ArgumentParser):
    """An argument parser whose errors are one line, and which accepts settings such as `paths.outputs=FOLDER`.

    Example:
        >>> parser = Arguments("store")
        >>> _ = parser.add_argument("--dry-run", action="store_true")
        >>> parser.read(["--dry-run", "paths.outputs=/data"])
        (Namespace(dry_run=True, config_dir=[]), ['paths.outputs=/data'])
    """

    def __init__(self, command: str = "", **options: Any) -> None:
        """Create the parser of `lightexp COMMAND`.

        Args:
            command: The command's name; subcommands' parsers get theirs from argparse, in `prog`.
            options: Of `argparse.ArgumentParser`. The description is printed as it is written.
        """
        self._actions_by_flag: dict[str, argparse.Action] = {}
        self._positional_choices: dict[str, Arguments | None] = {}
        self._subcommands: dict[str, Arguments] = {}
        self._subcommands_action: Any = None
        options.setdefault("prog", f"lightexp {command}")
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)

    def add_argument(self, *args: Any, **options: Any) -> argparse.Action:
        """Add a flag or a positional argument, as argparse does, and remember it for shell completion."""
        action = super().add_argument(*args, **options)
        for flag in action.option_strings:
            self._actions_by_flag[flag] = action
        if not action.option_strings and action.choices:
            self._positional_choices |= dict.fromkeys(action.choices)
        return action

    def offer(self, choices: Iterable[str]) -> None:
        """Add choices that shell completion offers for the first positional argument, which takes others, too."""
        self._positional_choices |= dict.fromkeys(choices)

    def add_command(self, name: str, help_line: str, description: str = "") -> Arguments:
        """Add a subcommand, such as `ls` of `lightexp store`, one of which the user must give.

        Args:
            name: The word that selects it.
            help_line: For the list of subcommands.
            description: For the subcommand's own help. Defaults to `help_line`.

        Returns:
            The subcommand's parser. `read` returns the name that was chosen as the flag `command`.
        """
        if self._subcommands_action is None:
            self._subcommands_action = self.add_subparsers(
                dest="command", metavar="COMMAND", required=True, prog=self.prog
            )
        subcommand: Arguments = self._subcommands_action.add_parser(
            name, help=help_line, description=description or f"{help_line[:1].upper()}{help_line[1:]}."
        )
        self._subcommands[name] = subcommand
        return subcommand

    def add_config_dir(self) -> Arguments:
        """Add `--config-dir DIR`, the user's own config groups, which may be given several times; return the parser."""
        # Without a default: a subcommand's default would overwrite what was given before the subcommand's name.
        absent = argparse.SUPPRESS
        self.add_argument("--config-dir", action="append", metavar="DIR", default=absent, help="your own config groups")
        return self

    @property
    def flags(self) -> list[str]:
        """All flags, long ones first."""
        return sorted(self._actions_by_flag, key=lambda flag: (not flag.startswith("--"), flag))

    @property
    def choices(self) -> dict[str, Arguments | None]:
        """The values of the first positional argument, each with the parser of what follows it, if anything may."""
        return {**self._positional_choices, **self._subcommands}

    def takes_value(self, flag: str) -> bool:
        """Return whether the argument after `flag` is its value."""
        action = self._actions_by_flag.get(flag)
        return action is not None and action.nargs != 0

    def read(self, argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
        """Parse a command line.

        Args:
            argv: The command line after the command's name.

        Returns:
            The flags and positional arguments, with `config_dir` as a list, and the settings: `name=value`,
            `+name=value` and `~name`. The config folders are made known to `compose_settings`.

        Raises:
            BadInput: For an unknown flag, or an argument that is neither a flag nor a setting.
        """
        options, settings = self.parse_known_args(argv)
        for argument in settings:
            if not is_setting(argument):
                self.error(f"unrecognized arguments: {argument}")
        options.config_dir = getattr(options, "config_dir", [])
        if options.config_dir:
            from lightexp.runner.compose import add_config_dirs

            add_config_dirs(options.config_dir)
        return options, settings

    def parse_known_args(self, *args: Any) -> Any:  # type: ignore[override]
        """Parse as argparse does, but let the subcommand that was given an unknown flag refuse it itself."""
        options, rest = super().parse_known_args(*args)
        if unknown := [argument for argument in rest if argument.startswith("-")]:
            self.error(f"unrecognized arguments: {unknown[0]}")
        return options, rest

    def check_flags(self, argv: list[str]) -> None:
        """Raise BadInput for an unknown long flag, where another parser does the parsing."""
        for argument in argv:
            if argument.startswith("--") and argument.partition("=")[0] not in self._actions_by_flag:
                self.error(f"unrecognized arguments: {argument}")

    def move_flags_first(self, argv: list[str]) -> list[str]:
        """Return the command line with flags and their values before all else, as Hydra's parser needs them.

        Args:
            argv: The command line, such as `["seed=1", "--cfg", "job"]`.

        Returns:
            The same arguments, such as `["--cfg", "job", "seed=1"]`.
        """
        flags: list[str] = []
        others: list[str] = []
        for argument in argv:
            is_value = bool(flags) and self.takes_value(flags[-1]) and not argument.startswith("-")
            if is_value or argument.startswith("-"):
                flags.append(argument)
            else:
                others.append(argument)
        return flags + others

    def error(self, message: str) -> NoReturn:
        """Raise BadInput with argparse's message, and with the nearest name where one is misspelt."""
        if match := re.fullmatch(r"unrecognized arguments: (\S+).*", message):
            self._refuse(match[1].partition("=")[0])
        if match := re.fullmatch(r"argument (\S+): invalid choice: '(.*)' \(choose from (.*)\)", message):
            choices = [choice.strip(" '") for choice in match[3].split(",")]
            raise BadInput(f"'{match[2]}' is not a {match[1]} of {self.prog}: {suggest_nearest(match[2], choices)}")
        raise BadInput(f"{self.prog}: {message}. See {self.prog} --help.")

    def _refuse(self, argument: str) -> NoReturn:
        if argument.startswith("-"):
            flags = [flag for flag in self._actions_by_flag if flag.startswith("--")]
            raise BadInput(f"{argument} is not a flag of {self.prog}: {suggest_nearest(argument, flags)}")
        raise BadInput(
            f"{argument} is not an argument of {self.prog}: settings are written name=value; see {self.prog} --help"
        )


def is_setting(argument: str) -> bool:
    """Return whether an argument changes the config: `name=value`, `+name=value` or `~name`.

    Example:
        >>> [is_setting(argument) for argument in ("seed=1", "~stage@pipeline.stages.prune", "table.yaml", "-m")]
        [True, True, False, False]
    """
    return not argument.startswith("-") and ("=" in argument or argument.startswith("~"))
