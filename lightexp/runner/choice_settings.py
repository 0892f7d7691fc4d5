"""What a choice of a config group sets, described by its classes' docstrings and its file's comments."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from lightexp.core.config import flatten, locate
from lightexp.core.protocols import Model, Stage, TrainingObjective
from lightexp.core.yaml_text import explain_yaml_error
from lightexp.runner.config_dir import find_config_dir
from lightexp.runner.config_groups import read_config, sets_complete_config
from lightexp.runner.setting_docs import describe_type, read_attributes, read_field_types
from lightexp.runner.shipped_nodes import load_shipped_node

_NESTED_GROUPS: dict[type[Any], str] = {TrainingObjective: "objective", Model: "model", Stage: "stage"}
"""Groups whose choices are nested in those of other groups, by their classes."""
_SETTING_LINE = re.compile(r"^( *)([\w.]+):.*?(?:\s# ?(.*))?$")
_INCLUDED_FILE = re.compile(r"^  - (?:/\w+/)?(_(?!self_)\w+?)(?:@\w+)?$", re.MULTILINE)


@dataclass(frozen=True)
class SettingDescription:
    """A setting of a choice.

    Attributes:
        name: Its dotted name within the choice.
        type: What it takes, in words; empty where no class says so.
        bounds: Its range; empty without one.
        default: Its value in the config, as YAML.
        search: Its default range in `lightexp search`; empty without one.
        text: What it means; empty where nothing says so.
    """

    name: str
    type: str
    bounds: str
    default: str
    search: str
    text: str


def compose_choice(group: str, path: Path) -> dict[str, Any]:
    """Return the node that a choice is composed to.

    Args:
        group: Name of the group.
        path: The choice's file, in lightexp's config folder, or in a user's that `add_config_dirs` has added.
    """
    if path.is_relative_to(find_config_dir()) and not sets_complete_config(path):
        return load_shipped_node(group, path.stem)
    from omegaconf import OmegaConf

    from lightexp.runner.compose import compose_config

    overrides, name = ([f"search={path.stem}"], "search") if group == "search" else ([], f"{group}/{path.stem}")
    with warnings.catch_warnings():
        # A file is composed alone here, where Hydra warns of defaults without _self_; within a run it does not.
        warnings.filterwarnings("ignore", ".*missing `_self_`", UserWarning)
        config = compose_config(overrides, name)
    node: Any = OmegaConf.to_container(config[group], resolve=False)
    return node  # type: ignore[no-any-return]


def locate_class(node: Mapping[str, Any], where: str, plugins: Sequence[str] = ()) -> type[Any] | None:
    """Return the class that a node names; None where it names none.

    Raises:
        BadInput: If the class does not exist, or its package is neither lightexp's nor one of `plugins`.
    """
    return locate(str(node["_target_"]), where, tuple(plugins)) if "_target_" in node else None


def describe_settings(node: Mapping[str, Any], path: Path, plugins: Sequence[str] = ()) -> list[SettingDescription]:
    """Describe every setting of a composed node: by its class's docstring, or else by the file's comments.

    Args:
        node: The node.
        path: The choice's file.
        plugins: Packages whose classes may be named. Defaults to none.
    """
    describer = _Describer(read_comments(path), tuple(plugins), list_changes(path))
    return list(describer.describe_node(node, ""))


@dataclass(frozen=True)
class _Describer:
    comments: Mapping[str, str]
    plugins: tuple[str, ...]
    changes: Mapping[str, str]

    def describe_node(self, node: Mapping[str, Any], prefix: str) -> Iterator[SettingDescription]:
        """Yield the settings of a node, whose place within the choice is `prefix`."""
        cls = locate_class(node, prefix.rstrip(".") or "the config", self.plugins)
        if cls is None:
            for name, value in node.items():
                yield from self._describe_plain(f"{prefix}{name}", value)
            return
        texts, ranges = read_attributes(cls), getattr(cls, "search", {}) if issubclass(cls, Stage) else {}
        for name, hint in read_field_types(cls).items():
            place, value = f"{prefix}{name}", node.get(name, getattr(cls, name, None))
            text = texts.get(name, "") or self.comments.get(place, "")
            if nested := self._describe_nested(place, value, text):
                yield from nested
            else:
                kind, search = describe_type(hint), ranges[name].values if name in ranges else ""
                yield SettingDescription(place, kind.name, kind.bounds, write_value(value), search, text)

    def _describe_plain(self, place: str, value: Any) -> Iterator[SettingDescription]:
        """Yield a setting of a mapping without a class, or the settings of what it holds."""
        text = self.comments.get(place, "")
        if nested := self._describe_nested(place, value, text):
            yield from nested
        elif isinstance(value, Mapping) and value:
            yield from self.describe_node(value, f"{place}.")
        else:
            yield SettingDescription(place, "", "", write_value(value), "", text)

    def _describe_nested(self, place: str, value: Any, text: str) -> list[SettingDescription]:
        """Return the settings of a value with a class, or the value alone if it is the choice of another group."""
        cls = locate_class(value, place, self.plugins) if isinstance(value, Mapping) else None
        if cls is None:
            return []
        for base, group in _NESTED_GROUPS.items():
            if issubclass(cls, base):
                choice = str(value["_target_"]).split(".")[-2]
                changes = [f"{n.removeprefix(place + '.')}={v}" for n, v in self.changes.items() if n.startswith(place)]
                text = text or (f"Here with {', '.join(changes)}." if changes else "")
                return [SettingDescription(place, f"choice of the group {group}", "", choice, "", text)]
        return list(self.describe_node(value, f"{place}."))


def read_comments(path: Path) -> dict[str, str]:
    """Return the comments behind the settings of a file, and of the partial files of its group that it includes."""
    text = read_config(path)
    comments: dict[str, str] = {}
    for name in _INCLUDED_FILE.findall(text):
        if (path.parent / f"{name}.yaml").is_file():
            comments |= read_comments(path.parent / f"{name}.yaml")
    places: list[tuple[int, str]] = []
    for line in text.splitlines():
        if match := _SETTING_LINE.match(line):
            indent = len(match[1])
            places = [place for place in places if place[0] < indent] + [(indent, match[2])]
            if match[3]:
                comments[".".join(name for _, name in places)] = match[3]
    return comments


def list_changes(path: Path) -> dict[str, str]:
    """Return what a file sets itself, by setting; first the choices of groups that it replaces."""
    try:
        raw = yaml.safe_load(read_config(path)) or {}
    except yaml.YAMLError as error:
        raise explain_yaml_error(path, error) from None
    changes: dict[str, str] = {}
    for entry in raw.pop("defaults", []):
        if isinstance(entry, Mapping):
            replaced = {name: value for name, value in entry.items() if name.startswith("override ")}
            changes |= {name.removeprefix("override ").lstrip("/"): write_value(replaced[name]) for name in replaced}
    return {**changes, **{name: write_value(value) for name, value in flatten(raw)}}


def write_value(value: Any) -> str:
    """Return a value as one line of YAML.

    Example:
        >>> write_value(None), write_value([4, 4]), write_value({})
        ('null', '[4, 4]', '{}')
    """
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {write_value(one)}" for name, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(write_value, value)) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value) or '""'
