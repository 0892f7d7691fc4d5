"""`lightexp completion`: the scripts behind the Tab key in bash, zsh and fish, and the query that they call."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from importlib import import_module

from lightexp.cli.arguments import Arguments, is_setting
from lightexp.cli.printing import print_line
from lightexp.core import compat
from lightexp.runner.config_dir import PRIMARY_CONFIG, find_config_dir

_HELP = """Print a script that makes the Tab key complete commands, flags, groups, their choices and settings.

  eval "$(lightexp completion bash)"                    for this bash; put the line into ~/.bashrc for every one
  eval "$(lightexp completion zsh)"                     for zsh: the same in ~/.zshrc, after compinit
  lightexp completion fish | source                     for fish: the same in ~/.config/fish/config.fish"""

# bash splits words at '=', ':' and '@', so that only what follows the last of them may be offered.
_BASH = r"""_lightexp() {
    local line="${COMP_LINE:0:COMP_POINT}" IFS=$'\n' before="" i
    local word="${line##* }" breaks="${COMP_WORDBREAKS//[^=:@]/}"
    COMPREPLY=($(lightexp completion query "$line" 2>/dev/null))
    if [[ -n $breaks ]]; then before="${word%"${word##*[$breaks]}"}"; fi
    for i in "${!COMPREPLY[@]}"; do COMPREPLY[i]="${COMPREPLY[i]#"$before"}"; done
    if [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *[=./] ]]; then compopt -o nospace; fi
}
complete -o default -F _lightexp lightexp
"""
_ZSH = r"""_lightexp() {
    local word
    for word in ${(f)"$(lightexp completion query "$LBUFFER" 2>/dev/null)"}; do
        if [[ $word == *[=./] ]]; then compadd -Q -S '' -- "$word"; else compadd -Q -- "$word"; fi
    done
}
compdef _lightexp lightexp
"""
_FISH = r"""function __lightexp
    lightexp completion query (commandline -cp) 2>/dev/null
end
complete -c lightexp -f -a '(__lightexp)'
"""
_SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


def make_parser() -> Arguments:
    """Make the parser of `lightexp completion`."""
    parser = Arguments("completion", description=_HELP)
    parser.add_argument("shell", metavar="SHELL", choices=list(_SCRIPTS), help="bash, zsh or fish")
    return parser


def run(argv: list[str]) -> int:
    """Run `lightexp completion` and return the exit code."""
    if argv[:1] == ["query"]:  # called by the scripts
        print_line("\n".join(complete_line(argv[1] if len(argv) > 1 else "")))
        return 0
    options, _ = make_parser().read(argv)
    print(_SCRIPTS[options.shell], end="")
    return 0


def complete_line(line: str) -> list[str]:
    """Return what may stand in place of the last word of a command line.

    Args:
        line: Up to the cursor, beginning with the program's name.
    """
    from lightexp.cli.main import COMMANDS

    try:
        arguments = shlex.split(line)
    except ValueError:  # within quotes
        arguments = line.split()
    prefix = "" if not line or line[-1].isspace() else arguments.pop()
    if len(arguments) < 2:
        return _select_matching((*COMMANDS, "--help", "--version"), prefix)
    command, before = arguments[1], arguments[2:]
    if command not in COMMANDS:
        return []
    parser = _make_parser(command)
    while parser.choices:
        chosen = next((argument for argument in before if argument in parser.choices), None)
        if chosen is None:
            if prefix.startswith("-"):
                break
            return _select_matching(parser.choices, prefix)
        following = parser.choices[chosen]
        if following is None:
            return []
        parser = following
    if prefix.startswith("-"):
        return _select_matching(parser.flags, prefix)
    if before and parser.takes_value(before[-1]):
        return []
    return _complete_setting(prefix, before, "search" if command == "search" else PRIMARY_CONFIG)


def _make_parser(command: str) -> Arguments:
    parser: Arguments = import_module(f"lightexp.cli.{command}").make_parser()
    return parser


def _select_matching(names: Iterable[str], prefix: str) -> list[str]:
    return [name for name in names if name.startswith(prefix)]


def _complete_setting(prefix: str, before: list[str], config: str) -> list[str]:
    """Return the groups, choices and settings that begin with a prefix.

    Args:
        prefix: What the user has typed of the last word.
        before: The arguments before it: a choice such as `pipeline=quantize` decides which settings there are.
        config: Name of the primary config.
    """
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.object_type import ObjectType
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    settings = [argument for argument in before if is_setting(argument) and " " not in argument]
    with initialize_config_dir(str(find_config_dir()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        name, equals, _ = prefix.partition("=")
        if equals and "@" in name:  # group@place=choice, which Hydra does not complete
            choices = loader.get_group_options(name.partition("@")[0].lstrip("+~"), ObjectType.CONFIG)
            offers = _select_matching([f"{name}={choice}" for choice in choices], prefix)
        else:
            try:
                offers = compat.complete_with_hydra(loader, config, " ".join([*settings, prefix]))
            except (HydraException, OmegaConfBaseException, ValueError):  # a setting before the last word is wrong
                return []
    hidden = ("_",) if prefix.startswith("hydra") else ("hydra", "_")
    return [offer for offer in offers if not _find_last_part(offer).startswith(hidden)]


def _find_last_part(offer: str) -> str:
    """Return what follows the last dot or equals sign inside an offer: `b=` of `a.b=`, `c` of `a=c`."""
    return re.split(r"[=.](?=[^=.]+=?$)", offer)[-1]
