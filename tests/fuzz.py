"""Mutants of a valid JSON tree: what a file looks like that other software, a bug or a stranger has written.

The benchmark of faults uses it too.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Iterator
from typing import Any

DROPPED = "dropped"
REPLACEMENTS: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    2**31,
    10**400,
    1.5,
    1e308,
    math.nan,
    -math.inf,
    "",
    "NaN",
    "../../x",
    "\x1b[2J\u202e\ud800",
    "long " * 20_000,
    [],
    [[]],
    {},
    {"_target_": "os.system"},
    {"": {"": None}},
)
"""Values of every JSON type that a node is replaced by: empty, huge, negative, not finite, nested."""
_ITEMS = 2  # of a list of equal items, whose mutants are alike

Path = tuple[str | int, ...]


def list_paths(tree: Any, path: Path = ()) -> Iterator[Path]:
    """Yield the path of every node but the root; of a long list only the first items."""
    if isinstance(tree, dict):
        for name, value in tree.items():
            yield (*path, name)
            yield from list_paths(value, (*path, name))
    elif isinstance(tree, list):
        for index, value in enumerate(tree[:_ITEMS]):
            yield (*path, index)
            yield from list_paths(value, (*path, index))


def mutate(tree: Any, limit: int, seed: int = 0) -> Iterator[tuple[str, Any]]:
    """Yield mutants of a tree: each has one node dropped, or replaced by a value of another type or size.

    Args:
        tree: A valid tree of JSON types.
        limit: Number of mutants; they are drawn without repetition, in an order that the seed decides.
        seed: Seed of the order.

    Yields:
        What was changed, such as `config.seed = -1`, and the changed copy.
    """
    edits = [(path, value) for path in list_paths(tree) for value in (DROPPED, *REPLACEMENTS)]
    random.Random(seed).shuffle(edits)
    for path, value in edits[:limit]:
        yield f"{'.'.join(map(str, path))} = {value!r:.40}", replace_node(tree, path, value)


def draw_mutant(tree: Any, rng: random.Random) -> Any:
    """Return one mutant; see `mutate`."""
    return replace_node(tree, rng.choice(list(list_paths(tree))), rng.choice((DROPPED, *REPLACEMENTS)))


def replace_node(tree: Any, path: Path, value: Any) -> Any:
    """Return a copy of a tree with another value at a path, or without the node if the value is `DROPPED`."""
    mutant = copy.deepcopy(tree)
    parent = mutant
    for part in path[:-1]:
        parent = parent[part]
    if value is DROPPED:
        del parent[path[-1]]
    else:
        parent[path[-1]] = copy.deepcopy(value)
    return mutant
