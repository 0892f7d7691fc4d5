"""Short names of rows for tables and figures."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

_OVERRIDE = re.compile(r"[+~]{0,2}([^=\s]+)=(\S*)")
_MAX_LISTED = 6
_MAX_CHARS = 200


def label_rows(names: Sequence[str], labels: Mapping[str, str]) -> dict[str, str]:
    """Return how tables and figures name each row.

    A row without a label whose name lists overrides loses those that all such rows share, and each override's setting
    is shortened to its last part. What is then longer than 200 characters is cut. Rows whose labels would be equal keep
    their names.

    Args:
        names: Names of the rows.
        labels: Labels by row, which come first.

    Example:
        >>> rows = [f"pipeline=prune pipeline.stages.prune.sparsity={value}" for value in (0.5, 0.9)]
        >>> list(label_rows(rows, {}).values())
        ['sparsity=0.5', 'sparsity=0.9']
    """
    overrides = {name: name.split() for name in names if name not in labels and _lists_overrides(name)}
    counts = Counter(override for row in overrides.values() for override in set(row))
    shared = {override for override, count in counts.items() if count == len(overrides) > 1}
    shortened = {
        name: " ".join(_shorten_override(override) for override in row if override not in shared) or name
        for name, row in overrides.items()
    }
    chosen = {name: labels.get(name) or _cut(shortened.get(name, name)) for name in names}
    uses = Counter(chosen.values())
    return {name: label if uses[label] == 1 else name for name, label in chosen.items()}


def join_names(names: Sequence[str]) -> str:
    """Return up to six names and the number of the others.

    Example:
        >>> join_names(list("abcdefgh"))
        'a, b, c, d, e, f and 2 more'
    """
    listed = ", ".join(names[:_MAX_LISTED])
    return listed if len(names) <= _MAX_LISTED else f"{listed} and {len(names) - _MAX_LISTED} more"


def _cut(name: str) -> str:
    return name if len(name) <= _MAX_CHARS else f"{name[: _MAX_CHARS - 1]}…"


def _lists_overrides(name: str) -> bool:
    return all(_OVERRIDE.fullmatch(part) for part in name.split())


def _shorten_override(word: str) -> str:
    match = _OVERRIDE.fullmatch(word)
    assert match is not None
    setting, value = match.groups()
    end = setting.rpartition(".")[2]
    return value if end == "pipeline" else f"{end}={value}"
