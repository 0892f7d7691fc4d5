"""`lightexp completion`: what the Tab key offers in bash, zsh and fish."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from importlib import import_module

from lightexp.cli.arguments import Arguments
from lightexp.runner.config_dir import PRIMARY_CONFIG, find_config_dir

_HELP = """Prints a script that makes the Tab key complete commands, flags, groups, their choices and settings.

  eval "$(lightexp completion bash)"                    for this bash; put the line into ~/.bashrc for every one
  eval "$(lightexp completion zsh)"                     likewise, in ~/.zshrc after compinit
  lightexp completion fish | source                     likewise, in ~/.config/fish/config.fish"""

# bash takes '=', ':' and '@' for the end of a word, so that only what follows the last of them is to be offered.
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


def parser() -> Arguments:
    """The command's flags."""
    made = Arguments("completion", description=_HELP)
    made.add_argument("shell", metavar="SHELL", choices=list(_SCRIPTS), help="bash, zsh or fish")
    return made


def run(words: list[str]) -> int:
    """Runs `lightexp completion` and returns the exit code."""
    if words[:1] == ["query"]:  # by the scripts
        print("\n".join(offers(words[1] if len(words) > 1 else "")))
        return 0
    print(_SCRIPTS[parser().read(words)[0].shell], end="")
    return 0


def offers(line: str) -> list[str]:
    """What may stand in place of the last word of a line, which begins with the program's name."""
    from lightexp.cli.main import COMMANDS

    try:
        done = shlex.split(line)
    except ValueError:  # within quotes
        done = line.split()
    word = "" if not line or line[-1].isspace() else done.pop()
    if len(done) < 2:
        return _matching((*COMMANDS, "--help", "--version"), word)
    command, before = done[1], done[2:]
    if command not in COMMANDS:
        return []
    module = import_module(f"lightexp.cli.{command}")
    parser: Arguments | None = module.parser() if hasattr(module, "parser") else None  # else it has FLAGS
    while parser and parser.choices:
        chosen = next((w for w in before if w in parser.choices), None)
        if chosen is None and not word.startswith("-"):
            return _matching(parser.choices, word)
        if chosen is None:
            break
        if (parser := parser.choices[chosen]) is None:
            return []
    if word.startswith("-"):
        return _matching(parser.flags if parser else sorted(module.FLAGS), word)
    if parser and before and parser.takes_value(before[-1]):
        return []
    return _settings(word, before, "search" if command == "search" else PRIMARY_CONFIG)


def _matching(names: Iterable[str], word: str) -> list[str]:
    return [name for name in names if name.startswith(word)]


def _settings(word: str, before: list[str], config: str) -> list[str]:
    """Groups, choices and settings, as Hydra completes them where the words before have their effect."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.object_type import ObjectType
    from hydra.errors import HydraException
    from hydra.plugins.completion_plugin import DefaultCompletionPlugin
    from omegaconf.errors import OmegaConfBaseException

    others = [w for w in before if ("=" in w or w.startswith("~")) and not w.startswith("-") and " " not in w]
    with initialize_config_dir(str(find_config_dir()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        place, equals, _ = word.partition("=")
        if equals and "@" in place:  # group@place=choice, which Hydra does not complete
            choices = loader.get_group_options(place.partition("@")[0].lstrip("+~"), ObjectType.CONFIG)
            found = _matching([f"{place}={choice}" for choice in choices], word)
        else:
            try:
                found = DefaultCompletionPlugin(loader)._query(config, " ".join([*others, word]))
            except (HydraException, OmegaConfBaseException, ValueError):  # the words before are wrong
                return []
    hidden = ("hydra", "_") if not word.startswith("hydra") else ("_",)
    return [name for name in found if not re.split(r"[=.](?=[^=.]+=?$)", name)[-1].startswith(hidden)]
