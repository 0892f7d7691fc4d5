"""Check the node `hydra` of a composed config: it comes from files of others, and Hydra would run what it names.

Launchers, sweepers and callbacks are named by `_target_`, logging by dictionaries that can name any function, and a
SLURM launcher takes shell commands. Only known classes and harmless values may come from a config file. What decides
more than that is taken from the command line alone.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from omegaconf import DictConfig, OmegaConf

from lightexp.core.errors import BadInput

_CORE, _PLUGINS = "hydra._internal.core_plugins", "hydra_plugins"
_KNOWN_CLASSES = {
    "launcher": {
        f"{_CORE}.basic_launcher.BasicLauncher",
        f"{_PLUGINS}.hydra_joblib_launcher.joblib_launcher.JoblibLauncher",
        f"{_PLUGINS}.hydra_submitit_launcher.submitit_launcher.LocalLauncher",
        f"{_PLUGINS}.hydra_submitit_launcher.submitit_launcher.SlurmLauncher",
        f"{_PLUGINS}.hydra_ray_launcher.ray_launcher.RayLauncher",
    },
    "sweeper": {f"{_CORE}.basic_sweeper.BasicSweeper", f"{_PLUGINS}.lightexp_sweeper.LightexpSweeper"},
    "callbacks": {"lightexp.cli.run.SweptRuns"},
}
_BASES: dict[str, type[Any]] = {"launcher": Launcher, "sweeper": Sweeper, "callbacks": Callback}
_COMMAND_LINE_ONLY: dict[str, tuple[Any, ...]] = {
    "run.dir": (".", "outputs/${now:%Y-%m-%d}/${now:%H-%M-%S}"),
    "sweep.dir": (
        "${paths.outputs}/sweeps/${now:%Y-%m-%d_%H-%M-%S}",
        "multirun/${now:%Y-%m-%d}/${now:%H-%M-%S}",
    ),
    "sweep.subdir": (".", "${hydra.job.num}"),
    "output_subdir": (".hydra",),
    "job.env_set": (),
    "job.env_copy": (),
    "sweeper.params": (),
    "launcher.additional_parameters": (),
    "launcher.python": (),
    "launcher.ray": (),
    "launcher.setup": (),
    "launcher.srun_args": (),
    "launcher.submitit_folder": ("${hydra.sweep.dir}/.submitit/%j",),
}
"""Settings that take effect outside the run, with the values that Hydra and lightexp themselves give them."""
_LOGGING = ("hydra_logging", "job_logging")
_INTERPOLATIONS = {"${hydra.job.name}", "${hydra.sweep.dir}/.submitit/%j"}  # of Hydra's launchers
_INSTANTIATE_KEY = re.compile(r"_\w*[a-z]_")  # `_target_`, `_args_`, `_partial_` and the like
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_SEARCH_PATH_SCHEME = re.compile(r"(\w+)://")


def check_hydra_node(config: DictConfig, overrides: Sequence[str]) -> None:
    """Refuse a composed config whose node `hydra` runs code, or changes what happens outside the run.

    Interpolations are checked unresolved, since they may have another value when Hydra resolves them.

    Args:
        config: The composed config.
        overrides: The command line's overrides, whose values are trusted.

    Raises:
        BadInput: For the first entry that is not allowed, with its place.
    """
    node: Any = OmegaConf.to_container(config.hydra, resolve=False)
    command_line = {override.lstrip("+~").partition("=")[0] for override in overrides}
    _check_text(node)
    for name in ("hydra", "task"):
        if any(item not in overrides for item in node["overrides"][name]):
            raise BadInput(f"hydra.overrides.{name} is what the command line gives, and no setting. Leave it out.")
    if "/" in str(node["job"].get("name", "")):
        raise BadInput(f"hydra.job.name must be no path. Received: {node['job']['name']}.")
    for name in _BASES:
        _check_plugin_node(name, node[name], overrides)
    for path, value in _list_guarded(node):
        if not _is_given(f"hydra.{path}", command_line):
            raise BadInput(
                f"hydra.{path} may be set on the command line, not by a config file, which can come from others. "
                f"Received: {value!r:.80}. Leave it out of the file; code belongs in a plugin (plugins=[PACKAGE])."
            )


def check_search_path(paths: Sequence[str]) -> None:
    """Refuse entries of `hydra.searchpath` other than folders: `pkg://` imports the package that it names.

    Raises:
        BadInput: For the first such entry.
    """
    for path in paths:
        scheme = _SEARCH_PATH_SCHEME.match(path)
        if scheme and scheme[1] != "file":
            raise BadInput(f"hydra.searchpath takes folders (file://FOLDER), no packages. Received: {path}.")


def _list_guarded(node: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the places and values that only the command line may give."""
    copied = node["job"]["env_copy"]  # Hydra has added these to env_set
    for path, allowed in _COMMAND_LINE_ONLY.items():
        parent, _, name = path.rpartition(".")
        for place, value in _list_leaves((node[parent] if parent else node).get(name), path):
            if value not in allowed and not (parent == "job" and place.removeprefix("job.env_set.") in copied):
                yield place, value
    for name in _LOGGING:
        shipped = _list_shipped_logging(name)
        yield from (leaf for leaf in _list_leaves(node[name], name) if leaf not in shipped)
    for name in _BASES:
        for place, value in _list_leaves(node[name], name):
            if isinstance(value, str) and "${" in value and value not in _INTERPOLATIONS:
                yield place, value


def _list_leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield the places and values inside a node; nothing for an empty one."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _list_leaves(item, f"{path}.{name}")
    elif isinstance(value, list) and any(isinstance(item, Mapping | list) for item in value):
        for index, item in enumerate(value):
            yield from _list_leaves(item, f"{path}.{index}")
    elif value is not None and value != []:
        yield path, value


@cache
def _list_shipped_logging(name: str) -> list[tuple[str, Any]]:
    """Return the leaves of the logging configs that Hydra itself ships, which name harmless classes only."""
    configs = (OmegaConf.load(str(path)) for path in (files("hydra.conf") / "hydra" / name).iterdir())
    return [leaf for config in configs for leaf in _list_leaves(OmegaConf.to_container(config), name)]


def _check_plugin_node(name: str, node: Any, overrides: Sequence[str]) -> None:
    """Check a launcher, a sweeper or all callbacks."""
    nodes = {f"hydra.{name}": node}
    if name == "callbacks" and isinstance(node, Mapping):
        nodes = {f"hydra.callbacks.{key}": value for key, value in node.items()}
    for place, value in nodes.items():
        if not isinstance(value, Mapping) or not isinstance(value.get("_target_"), str):
            raise BadInput(f"{place} must be a mapping with _target_. Received: {value!r:.80}.")
        _check_class(name, value["_target_"], place, overrides)
        if any(isinstance(text, str) and "\n" in text for _, text in _list_leaves(value, place)):
            raise BadInput(f"{place}: a text of several lines is not allowed within it. Write it on one line.")
        inner = {key: item for key, item in value.items() if key != "_target_"}
        if key := next(filter(_INSTANTIATE_KEY.fullmatch, _list_keys(inner)), None):
            raise BadInput(f"{place}: {key} is not allowed within it. Code belongs in a plugin (plugins=[PACKAGE]).")


def _check_class(name: str, target: str, place: str, overrides: Sequence[str]) -> None:
    """Check that a class is known, or of the right kind and from a package that the command line allows."""
    if target in _KNOWN_CLASSES[name]:
        return
    module, _, class_name = target.rpartition(".")
    package = target.partition(".")[0]
    if not any(target.startswith(f"{plugin}.") for plugin in _list_plugins(overrides)) or "__" in target:
        raise BadInput(
            f"{place}._target_ names '{target}', which is none of the classes that lightexp knows there. "
            f"To allow your package, add plugins=[{package}] to the command line."
        )
    try:
        cls = getattr(importlib.import_module(module), class_name)
    except (Exception, SystemExit) as error:  # a user's module may raise anything while it is imported
        raise BadInput(f"{place}._target_ names '{target}', which cannot be imported ({error!r}).") from None
    if not isinstance(cls, type) or not issubclass(cls, _BASES[name]):
        raise BadInput(f"{place}._target_ must be a {_BASES[name].__name__} of Hydra's. Received: {target}.")


def _list_plugins(overrides: Sequence[str]) -> list[str]:
    """Return the packages that the command line allows."""
    plugin_overrides = [override for override in overrides if override.lstrip("+").startswith("plugins=")]
    values = [override.value() for override in OverridesParser.create().parse_overrides(plugin_overrides)]
    return [str(package) for value in values if isinstance(value, list) for package in value]


def _is_given(name: str, command_line: set[str]) -> bool:
    """Return whether the command line sets an entry, or a node that holds it."""
    parts = name.split(".")
    return any(".".join(parts[:count]) in command_line for count in range(1, len(parts) + 1))


def _list_keys(value: Any) -> Iterator[str]:
    """Yield the keys of all mappings inside a value."""
    if isinstance(value, Mapping):
        yield from map(str, value)
    for item in _list_children(value):
        yield from _list_keys(item)


def _check_text(value: Any) -> None:
    """Refuse control characters, which Hydra would print as they are."""
    if isinstance(value, str) and (match := _CONTROL.search(value)):
        raise BadInput(f"hydra: control characters are not allowed in a config. Received: {match[0]!r}.")
    for item in _list_children(value):
        _check_text(item)


def _list_children(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    return value if isinstance(value, list) else []
