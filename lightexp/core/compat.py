"""Private attributes of other libraries: the only module that may touch them.

Each function says why no public interface does, and for which version of the library; `tests/core/test_compat.py`
fails when the library changes what the function relies on.
"""

from __future__ import annotations

from typing import Any


def list_hydra_flags() -> dict[tuple[str, ...], bool]:
    """Return the flags of Hydra's command line, such as `("--cfg", "-c")`, and whether each must have a value.

    Hydra 1.3.8 builds its parser in `hydra._internal.utils` and has no public way to ask for its flags, which
    `lightexp run` needs to refuse a misspelt one in one line and to complete them in a shell.
    """
    from hydra._internal.utils import get_args_parser

    actions = [action for action in get_args_parser()._actions if action.option_strings]
    return {tuple(action.option_strings): action.nargs is None for action in actions}


def complete_with_hydra(config_loader: Any, config_name: str, line: str) -> list[str]:
    """Return what may stand in place of the last word of `line`, as Hydra's shell completion has it.

    Hydra 1.3.8 offers completion only to its own scripts, which run the whole application; the query behind them is
    the private `CompletionPlugin._query`.

    Args:
        config_loader: Hydra's config loader.
        config_name: Of the primary config.
        line: Overrides separated by spaces, of which the last is incomplete.
    """
    from hydra.plugins.completion_plugin import DefaultCompletionPlugin

    return list(DefaultCompletionPlugin(config_loader)._query(config_name, line))
