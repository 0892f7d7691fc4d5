"""Check the YAML of others before it is expanded: a few lines of aliases can stand for billions of values."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from lightexp.core.errors import BadInput, format_reason
from lightexp.core.regular_files import read_text

_MAX_NODES = 100_000
_parsed_configs: dict[tuple[Any, ...], bytes] = {}
"""Pickled results of Hydra's repository, by the config's name, the state of its file and the search path."""


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
        BadInput: If `check_yaml` refuses it. What is not YAML is refused when it is loaded.
    """
    try:
        text = read_text(path)
        if "&" in text and "*" in text:  # the others stand for what they say
            check_yaml(text)
    except yaml.YAMLError:
        return
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be used as a config: {format_reason(error)}.") from None


def load_checked_config(config_path: str, sources: Sequence[Any], load: Callable[[str], Any]) -> Any:
    """Check a config file and return what `load` returns for it; one that has not changed is parsed once in a process.

    Args:
        config_path: The config's group and name.
        sources: What the repository searches.
        load: The repository's `load_config`.

    Raises:
        BadInput: If `check_config_file` refuses the file, or it is not a mapping in YAML.
    """
    source = next((s for s in sources if s.scheme() == "file" and s.is_config(config_path)), None)
    if source is None:
        return load(config_path)
    file = Path(source.path, f"{config_path.removesuffix('.yaml')}.yaml")
    state = file.stat()
    key = (config_path, state.st_ino, state.st_mtime_ns, state.st_size, *(s.path for s in sources))
    if key not in _parsed_configs:
        _parsed_configs[key] = pickle.dumps(_load_config(file, lambda: load(config_path)))
    return pickle.loads(_parsed_configs[key])  # a copy, which Hydra changes


def _load_config(path: Path, load: Callable[[], Any]) -> Any:
    from omegaconf import DictConfig

    check_config_file(path)
    try:
        loaded = load()
    except yaml.YAMLError as error:
        raise explain_yaml_error(path, error) from None
    if not isinstance(loaded.config, DictConfig):
        raise BadInput(f"{path} must hold settings as a mapping. Received: {loaded.config!r:.60}.")
    return loaded


def explain_yaml_error(path: Path, error: Exception) -> BadInput:
    """Return an error of reading a YAML file as one line that names the file, the problem and its line."""
    problem = getattr(error, "problem", None) or format_reason(error)
    mark = getattr(error, "problem_mark", None)
    place = f" in line {mark.line + 1}" if mark else ""
    return BadInput(f"{path} cannot be read as YAML: {' '.join(str(problem).split()).rstrip('.')}{place}.")


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
