"""Check the YAML of others before it is expanded: a few lines of aliases can stand for billions of values."""

from __future__ import annotations

from pathlib import Path

import yaml  # type: ignore[import-untyped]

from lightexp.core.errors import BadInput
from lightexp.core.regular_files import read_text

_MAX_NODES = 100_000


def check_yaml(text: str) -> None:
    """Check that a document holds no more values than a config can need, with its aliases expanded.

    Args:
        text: The document.

    Raises:
        ValueError: If it holds more, or an alias within itself.
        yaml.YAMLError: If it is not YAML.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        count = 0 if root is None else _count_nodes(root, {})
    except RecursionError:
        raise ValueError("it is nested without end") from None
    if count > _MAX_NODES:
        raise ValueError(f"its aliases stand for more than {_MAX_NODES:,} values")


def check_config_file(path: Path) -> None:
    """Check a config that Hydra is about to read.

    Raises:
        BadInput: If `check_yaml` refuses it. What is not YAML is Hydra's to refuse.
    """
    try:
        text = read_text(path)
        if "&" in text and "*" in text:  # the others stand for what they say
            check_yaml(text)
    except yaml.YAMLError:
        return
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be used as a config: {error}.") from None


def _count_nodes(node: yaml.Node, counts: dict[yaml.Node, int]) -> int:
    """Return the number of values below a node; `counts` holds those of nodes that were visited, 0 of open ones."""
    if node in counts:
        if not counts[node]:
            raise ValueError("it holds an alias within what the alias stands for")
        return counts[node]
    counts[node] = 0
    children: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        children = [part for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode):
        children = node.value
    counts[node] = 1 + sum(_count_nodes(child, counts) for child in children)
    return counts[node]
