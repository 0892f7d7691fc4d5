"""Compose configs from overrides with Hydra, and turn Hydra's errors into one line."""

from __future__ import annotations

import pickle
import re
import shlex
from contextlib import AbstractContextManager, suppress
from functools import lru_cache
from pathlib import Path
from traceback import extract_tb
from typing import TYPE_CHECKING, ClassVar

from hydra import compose, initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from lightexp.core.compat import checked_hydra_configs
from lightexp.core.errors import BadInput, suggest_nearest
from lightexp.runner.config_dir import PRIMARY_CONFIG, find_config_dir
from lightexp.runner.hydra_node import check_hydra_node, check_search_path

if TYPE_CHECKING:
    from lightexp.runner.settings import Settings

_VERSION_BASE = "1.3"
_EXTRAS = {"joblib": "joblib", "submitit_local": "submitit", "submitit_slurm": "submitit", "ray": "ray"}
"""Launchers by the extra of lightexp that installs each."""
# Messages of Hydra and OmegaConf:
_UNKNOWN_SETTING = re.compile(r"Could not override '([^']+)'")
_UNKNOWN_CHOICE = re.compile(r"Could not find '([^']+)/([^'/]*)'")
_UNKNOWN_LISTED_CHOICE = re.compile(r"Could not load '([^']+)/([^/']+)'")  # one of several choices of a group
_SEVERAL_VALUES = re.compile(r"Ambiguous value for argument '([^']+)'")
_WRONG_CONTAINER = re.compile(r"Error merging override (.+)")
_SIGN = re.compile(r"[^a-zA-Z0-9_/\\+.$%*@?|: -]")  # what Hydra's grammar has in no unquoted value
_CHOICE_NOT_TEXT = "Config group override must be a string"


def compose_config(overrides: list[str], name: str = PRIMARY_CONFIG) -> DictConfig:
    """Compose a config from overrides; within a Hydra application, with its search path.

    What several runs share is composed once, since Hydra takes a tenth of a second for it; see `clear_cache`.

    Args:
        overrides: Overrides as on the command line.
        name: Name of the primary config. Defaults to `run`.

    Raises:
        BadInput: If Hydra cannot compose them.
    """
    try:
        return drop_removed_stages(_compose(name, overrides), overrides)
    except (HydraException, OmegaConfBaseException, ValueError, TypeError) as error:
        if not is_config_error(error):
            raise
        raise as_bad_input(error, overrides, name) from None


def _compose(name: str, overrides: list[str]) -> DictConfig:
    """Compose the cached part of a config, and set plain values afterwards by the call that Hydra itself uses."""
    parsed = OverridesParser.create().parse_overrides(overrides)
    others = [n for n, override in enumerate(parsed) if override.type is not OverrideType.CHANGE]
    plain = [n for n, override in enumerate(parsed) if n > max(others, default=-1) and _sets_value(override)]
    hydra = GlobalHydra.instance()
    search_path = str(hydra.config_loader().get_search_path()) if hydra.is_initialized() else ""
    shared = (override for n, override in enumerate(overrides) if n not in plain)
    config: DictConfig = pickle.loads(_compose_cached(search_path, name, *shared))
    try:
        for n in plain:
            OmegaConf.update(config, parsed[n].key_or_group, parsed[n].value())
    except OmegaConfBaseException:
        return _compose_uncached(name, overrides)  # whose error names the override
    return config


def _sets_value(override: Override) -> bool:
    """Check whether an override sets a single setting, and so cannot choose an option of a group."""
    name = override.key_or_group
    plain = override.package is None and not override.is_sweep_override() and not re.search("/|^hydra", name)
    return plain and ("." in name or name == "seed")


@lru_cache(256)
def _compose_cached(search_path: str, name: str, *overrides: str) -> bytes:
    """Return a pickled config; the search path is part of the cache's key."""
    return pickle.dumps(_compose_uncached(name, list(overrides)))


def _compose_uncached(name: str, overrides: list[str], with_hydra: bool = False) -> DictConfig:
    if GlobalHydra.instance().is_initialized():
        return compose(name, overrides, return_hydra_config=with_hydra)
    with _check_configs(), initialize_config_dir(str(find_config_dir()), version_base=_VERSION_BASE):
        return compose(name, overrides, return_hydra_config=with_hydra)


def _check_configs() -> AbstractContextManager[None]:
    """Make the Hydra that is initialised in the context check its configs."""
    return checked_hydra_configs(check_hydra_node, check_search_path)


def clear_cache() -> None:
    """Forget composed configs, so that config files are read again."""
    _compose_cached.cache_clear()


class _UserConfigDirs(SearchPathPlugin):
    """Adds the user's own config folders to Hydra's search path, where `--config-dir` of Hydra adds them."""

    folders: ClassVar[list[str]] = []

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for folder in self.folders:
            search_path.append("command-line", folder)


def add_config_dirs(folders: list[str]) -> None:
    """Initialise Hydra in this process so that it also finds configs in the user's own folders.

    Args:
        folders: Folders with config groups; of two configs of one name, lightexp's own counts.

    Raises:
        BadInput: If a folder does not exist.
    """
    for folder in folders:
        if not folder or not Path(folder).is_dir():
            raise BadInput(f"--config-dir={folder} is not a folder. Name one that holds your own config groups.")
    _UserConfigDirs.folders = [str(Path(folder).absolute()) for folder in folders]
    Plugins.instance().register(_UserConfigDirs)
    GlobalHydra.instance().clear()
    with _check_configs():
        initialize_config_dir(str(find_config_dir()), job_name="lightexp", version_base=_VERSION_BASE)


def drop_removed_stages(config: DictConfig, overrides: list[str]) -> DictConfig:
    """Remove the settings that a pipeline still has of stages removed by `~stage@pipeline.stages.NAME`."""
    for override in overrides:
        if override.startswith("~stage@"):
            place, _, name = override.partition("@")[2].partition("=")[0].rpartition(".")
            node = OmegaConf.select(config, place) if place else None
            if isinstance(node, DictConfig) and name in node and "_target_" not in node[name]:
                with open_dict(node):
                    del node[name]
    return config


def compose_settings(overrides: list[str], writes: bool = True) -> Settings:
    """Return the typed settings that some overrides describe.

    Args:
        overrides: The overrides.
        writes: Whether the outputs folder must be one that can be written. Defaults to True.

    Raises:
        BadInput: If they cannot be composed or are wrong.
    """
    from lightexp.runner.settings import read_settings  # not needed to refuse a misspelt override

    return read_settings(compose_config(overrides), writes)


def is_config_error(error: Exception) -> bool:
    """Check whether Hydra or OmegaConf raised an error.

    For `model=null` Hydra raises a bare ValueError, and for `deploy=[null]` a TypeError where it lists the defaults.
    """
    if isinstance(error, TypeError):
        frames = extract_tb(error.__traceback__)
        return any(frame.filename.endswith("hydra/_internal/defaults_list.py") for frame in frames)
    return isinstance(error, HydraException | OmegaConfBaseException) or _CHOICE_NOT_TEXT in str(error)


def as_bad_input(error: Exception, overrides: list[str], config: str = PRIMARY_CONFIG) -> BadInput:
    """Return an error of Hydra or OmegaConf as one line, with the nearest correct word.

    Args:
        error: The error.
        overrides: The overrides that raised it.
        config: Name of the primary config. Defaults to `run`.
    """
    if isinstance(error, OverrideParseException):
        return _explain_parse_error(error.override)
    message = " ".join(str(error).split())
    if _CHOICE_NOT_TEXT in message or isinstance(error, TypeError):
        null = (o for o in overrides if o.endswith("=null") or o.startswith("=") or _lists_more_than_names(o))
        wrong = next(null, " ".join(overrides))
        return BadInput(f"{wrong}: a group takes the name of one of its choices; lightexp run --help lists them.")
    if match := _UNKNOWN_SETTING.search(message):
        return _explain_unknown_setting(match[1], overrides, config)
    if match := _UNKNOWN_CHOICE.search(message):
        options = getattr(error, "options", None) if isinstance(error, MissingConfigException) else None
        return _explain_unknown_choice(match[1], match[2], options or [])
    if match := _UNKNOWN_LISTED_CHOICE.search(message):
        choices = (path.stem for path in (find_config_dir() / match[1]).glob("*.yaml"))
        return BadInput(f"{match[1]}=[{match[2]}]: no such choice, {suggest_nearest(match[2], choices)}")
    if match := _SEVERAL_VALUES.search(message):
        name, _, value = match[1].partition("=")
        return BadInput(f"{match[1]} is several values: add -m to run each, or write '{name}=[{value}]' for a list.")
    if match := _WRONG_CONTAINER.search(message):
        return BadInput(
            f"{match[1]}: a list cannot take a mapping's place, nor a mapping a list's. A list is NAME=[VALUE], a "
            "mapping added to by '+NAME={KEY: VALUE}'."
        )
    relevant = str(error).partition("Config search path:")[0]
    lines = [" ".join(line.split()) for line in relevant.splitlines() if line.strip()]
    return BadInput(f"config: {' '.join(lines[:2])}" if lines else f"config: {type(error).__name__}")


def _lists_more_than_names(override: str) -> bool:
    """Check whether an override gives a group a list that holds anything but names."""
    group, _, value = override.partition("=")
    if "." in group.partition("@")[0] or not value.startswith("["):
        return False
    names = OverridesParser.create().parse_override(override).value()
    return isinstance(names, list) and not all(isinstance(name, str) for name in names)


def _explain_parse_error(override: str) -> BadInput:
    if "choice(" in override and re.search(r"\bnull\b", override):
        return BadInput(
            f"{override}: Hydra's own parser takes no null among choices. lightexp search takes it, with the same "
            "words."
        )
    name, _, value = override.partition("=")
    signs = " ".join(map(repr, dict.fromkeys(_SIGN.findall(value))))
    escaped = value.replace('"', r"\"")
    quoted = f'{name}="{escaped}"'
    if signs and value[0] not in "[{" and _can_be_parsed(quoted):
        return BadInput(
            f"{override} cannot be read as setting=value: Hydra reads {signs} in a value only between quotes, which "
            f"the shell must leave alone. Write {shlex.quote(quoted)}."
        )
    return BadInput(
        f"{override} cannot be read as setting=value. Quote what holds '=', ',', brackets or spaces, such as "
        '\'teacher=["model=lenet5","pipeline=control"]\'.'
    )


def _can_be_parsed(override: str) -> bool:
    try:
        return isinstance(OverridesParser.create().parse_override(override).value(), str)
    except HydraException:
        return False


def _explain_unknown_choice(group: str, choice: str, options: list[str]) -> BadInput:
    extra = _EXTRAS.get(choice) if group == "hydra/launcher" else None
    if extra:
        return BadInput(f"{group}={choice} is not installed: pip install 'lightexp[{extra}]'.")
    return BadInput(f"{group}={choice}: no such choice, {suggest_nearest(choice, options)}")


def _explain_unknown_setting(name: str, overrides: list[str], primary: str) -> BadInput:
    """Name the settings near one that does not exist, found by composing without its override."""
    others = [o for o in overrides if o.lstrip("+~").partition("=")[0] != name]
    place, _, word = name.rpartition("@")[2].rpartition(".")  # of group@place, the place
    config, swept = None, []
    with suppress(HydraException, OmegaConfBaseException, ValueError, TypeError):
        if len(others) < len(overrides):
            parsed = OverridesParser.create().parse_overrides(others)
            swept = [o for o, override in zip(others, parsed, strict=True) if override.is_sweep_override()]
            others = [o for o in others if o not in swept]
            config = _compose_uncached(primary, others, with_hydra=name.startswith("hydra."))
    node = OmegaConf.select(config, place) if config is not None and place else config
    while node is None and config is not None and place:
        place, _, word = place.rpartition(".")
        node = OmegaConf.select(config, place) if place else config
    if isinstance(node, DictConfig) and word in node:
        if swept and not isinstance(node[word], DictConfig):
            return BadInput(f"{name} is no setting of every job of {' '.join(swept)}. Leave it out, or those jobs.")
        return BadInput(f"{name} is a mapping: to add to it, write '+{name}={{...}}' or '+{name}.KEY=...'.")
    known = [str(key) for key in node if key != "_target_"] if isinstance(node, DictConfig) else []
    if not place:
        known.append("experiment")
    within = f" (in {place})" if place else ""
    addition = f" To add it, write '+{name}=CHOICE'." if "@" in name else ""
    return BadInput(f"{name} is not a setting: {suggest_nearest(word, known)}{within}{addition}")
