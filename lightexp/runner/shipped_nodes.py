"""Compose choices of lightexp's own groups without Hydra, whose import and start take longer than a reader waits.

Only what the shipped files use is known here: parts of the same group, choices of other groups at a place within the
node, and `_self_`. A test compares every node with Hydra's. Files of users may use more, and are composed by Hydra.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml  # type: ignore[import-untyped]

from lightexp.runner.config_dir import find_config_dir


class _Loader(yaml.CSafeLoader):  # type: ignore[misc]
    """Reads 400e6 as a number, as Hydra does; to YAML 1.1 it is a text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), [*"-+0123456789"]
)


def load_shipped_node(group: str, choice: str) -> dict[str, Any]:
    """Return the node that a shipped choice is composed to, interpolations as they are written."""
    text = (find_config_dir() / group / f"{choice}.yaml").read_text(encoding="utf-8")
    own = yaml.load(text, Loader=_Loader)
    defaults = own.pop("defaults", [])
    node: dict[str, Any] = {}
    for entry in defaults if "_self_" in defaults else [*defaults, "_self_"]:
        if isinstance(entry, Mapping):
            for key, selected in entry.items():
                source, _, place = key.removeprefix("override ").lstrip("/").partition("@")
                if selected is not None:
                    _place(node, place, load_shipped_node(source, selected))
        else:
            _merge(node, own if entry == "_self_" else load_shipped_node(group, entry))
    return node


def _place(node: dict[str, Any], place: str, value: Any) -> None:
    """Put a value at a dotted place, in place of what is there."""
    *outer, last = place.split(".")
    for name in outer:
        node = node.setdefault(name, {})
    node[last] = value


def _merge(node: dict[str, Any], other: Mapping[str, Any]) -> None:
    """Merge a mapping into another; its values win."""
    for name, value in other.items():
        if isinstance(value, Mapping) and isinstance(node.get(name), dict):
            _merge(node[name], value)
        else:
            node[name] = value
