"""Settings as the Python API takes them: a list of overrides, or one string as typed on the command line."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from lightexp.core.errors import BadInput


def split_overrides(overrides: str | Iterable[str] | None) -> list[str]:
    """Return overrides as a list.

    Args:
        overrides: Such as `["model=lenet5", "seed=1"]`, or `"model=lenet5 seed=1"`, which is split as a shell does.

    Raises:
        BadInput: If an override is no string or a flag, or if the string has an open quote.

    Example:
        >>> split_overrides("model=lenet5 'pipeline.order=[train, quantize]'")
        ['model=lenet5', 'pipeline.order=[train, quantize]']
    """
    if overrides is None:
        return []
    if isinstance(overrides, str):
        try:
            overrides = shlex.split(overrides)
        except ValueError as error:
            raise BadInput(f"overrides cannot be split: {error}. Received: {overrides}. Pass a list.") from None
    requested = list(overrides)
    for override in requested:
        if not isinstance(override, str):
            raise BadInput(f"overrides are strings such as 'seed=1'. Received: {override!r}.")
        if override.startswith("-"):
            raise BadInput(f"{override} is a flag of the command line. Pass settings only, such as 'seed=1'.")
    return requested
