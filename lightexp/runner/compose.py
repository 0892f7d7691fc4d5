"""From overrides to a composed config, and from Hydra's complaints to one line."""

from __future__ import annotations

import pickle
import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from hydra import compose, initialize_config_dir
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from lightexp.core.errors import BadInput, suggest_nearest
from lightexp.runner.config_dir import PRIMARY_CONFIG, find_config_dir

if TYPE_CHECKING:
    from lightexp.runner.settings import Settings

_UNKNOWN = re.compile(r"Could not override '([^']+)'")
_NO_CHOICE = re.compile(r"Could not find '([^']+)/([^'/]*)'")
_NO_WORD = "Config group override must be a string"
_NOT_LISTED = re.compile(r"Could not load '([^']+)/([^/']+)'")  # one of several choices of a group
_EXTRAS = {"joblib": "joblib", "submitit_local": "submitit", "submitit_slurm": "submitit", "ray": "ray"}
_SWEEP = re.compile(r"Ambiguous value for argument '([^']+)'")
_MERGED = re.compile(r"Error merging override (.+)")


def compose_config(overrides: list[str], name: str = PRIMARY_CONFIG) -> DictConfig:
    """Composes the run's config; inside a Hydra application with its search path.

    What many runs have in common is composed once, until `forget`: Hydra takes a tenth of a second for it.

    Args:
        overrides: As on the command line.
        name: Of the primary config. Defaults to `run`.

    Raises:
        BadInput: If Hydra cannot.
    """
    try:
        return drop_removed_stages(_composed(name, overrides), overrides)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        if not is_config_error(error):
            raise
        raise as_bad_input(error, overrides, name) from None


def _composed(name: str, overrides: list[str]) -> DictConfig:
    """What Hydra composes; plain values are put in last, by the call by which Hydra does it."""
    parsed = OverridesParser.create().parse_overrides(overrides)
    others = [n for n, override in enumerate(parsed) if override.type is not OverrideType.CHANGE]
    late = [n for n, one in enumerate(parsed) if n > max(others, default=-1) and _is_value(one)]
    hydra = GlobalHydra.instance()
    place = str(hydra.config_loader().get_search_path()) if hydra.is_initialized() else ""
    config: DictConfig = pickle.loads(_shared(place, name, *(o for n, o in enumerate(overrides) if n not in late)))
    try:
        for n in late:
            OmegaConf.update(config, parsed[n].key_or_group, parsed[n].value())
    except OmegaConfBaseException:
        return _whole(name, overrides)  # which says what is wrong with it
    return config


def _is_value(override: Override) -> bool:
    """Whether an override gives one value to one setting, and so cannot be the choice of a group."""
    name = override.key_or_group
    plain = override.package is None and not override.is_sweep_override() and not re.search("/|^hydra", name)
    return plain and ("." in name or name == "seed")


@lru_cache(256)
def _shared(place: str, name: str, *overrides: str) -> bytes:
    """A pickled config; `place` is where Hydra looks for its parts."""
    return pickle.dumps(_whole(name, list(overrides)))


def _whole(name: str, overrides: list[str]) -> DictConfig:
    if GlobalHydra.instance().is_initialized():
        return compose(name, overrides)
    with initialize_config_dir(str(find_config_dir()), version_base="1.3"):
        return compose(name, overrides)


def clear_cache() -> None:
    """Has all config files read anew."""
    _shared.cache_clear()


def add_config_dirs(folders: list[str]) -> None:
    """Makes this process a Hydra application that finds configs also in the user's own folders.

    Raises:
        BadInput: If one is not there.
    """
    for folder in folders:
        if not folder or not Path(folder).is_dir():
            raise BadInput(f"--config-dir={folder} is not a folder. Name one that holds your own config groups.")
    path = create_config_search_path(str(find_config_dir()))
    for folder in folders:
        path.prepend("command-line", str(Path(folder).absolute()), "schema")
    GlobalHydra.instance().clear()
    Hydra.create_main_hydra2("lightexp", path)


def drop_removed_stages(config: DictConfig, overrides: list[str]) -> DictConfig:
    """The config without what a pipeline still says of stages that `~stage@pipeline.stages.NAME` has removed."""
    for override in overrides:
        if override.startswith("~stage@"):
            place, _, name = override.partition("@")[2].partition("=")[0].rpartition(".")
            node = OmegaConf.select(config, place) if place else None
            if isinstance(node, DictConfig) and name in node and "_target_" not in node[name]:
                with open_dict(node):
                    del node[name]
    return config


def compose_settings(overrides: list[str]) -> Settings:
    """The typed settings that some overrides describe.

    Raises:
        BadInput: If they cannot be composed or are wrong.
    """
    from lightexp.runner.settings import read_settings  # not on the way to saying that a word is misspelt

    return read_settings(compose_config(overrides))


def is_config_error(error: Exception) -> bool:
    """Whether an error is Hydra's or OmegaConf's complaint; for `model=null` Hydra raises a bare ValueError."""
    return isinstance(error, HydraException | OmegaConfBaseException) or _NO_WORD in str(error)


def as_bad_input(error: Exception, overrides: list[str], config: str = PRIMARY_CONFIG) -> BadInput:
    """Hydra's or OmegaConf's complaint in one line, with the nearest right word."""
    words = " ".join(str(error).split())
    if isinstance(error, OverrideParseException):
        if "choice(" in error.override and re.search(r"\bnull\b", error.override):
            return BadInput(
                f"{error.override}: Hydra's own parser takes no null among choices. lightexp search takes it, with the "
                "same words."
            )
        return BadInput(
            f"{error.override} cannot be read as setting=value. Quote what holds '=', ',', brackets or spaces, such as "
            '\'teacher=["model=lenet5","pipeline=control"]\'.'
        )
    if _NO_WORD in words:
        wrong = next((o for o in overrides if o.endswith("=null") or o.startswith("=")), " ".join(overrides))
        return BadInput(f"{wrong}: a group takes the name of one of its choices; lightexp run --help lists them.")
    if found := _UNKNOWN.search(words):
        return _unknown(found[1], overrides, config)
    if found := _NO_CHOICE.search(words):
        options = getattr(error, "options", None) if isinstance(error, MissingConfigException) else None
        if extra := _EXTRAS.get(found[2]) if found[1] == "hydra/launcher" else None:
            return BadInput(f"{found[1]}={found[2]} is not installed: pip install 'lightexp[{extra}]'.")
        return BadInput(f"{found[1]}={found[2]}: no such choice, {suggest_nearest(found[2], options or [])}")
    if found := _NOT_LISTED.search(words):
        options = (path.stem for path in (find_config_dir() / found[1]).glob("*.yaml"))
        return BadInput(f"{found[1]}=[{found[2]}]: no such choice, {suggest_nearest(found[2], options)}")
    if found := _SWEEP.search(words):
        name, _, value = found[1].partition("=")
        return BadInput(f"{found[1]} is several values: add -m to run each, or write '{name}=[{value}]' for a list.")
    if found := _MERGED.search(words):
        return BadInput(
            f"{found[1]}: a list cannot take a mapping's place, nor a mapping a list's. A list is NAME=[VALUE], a "
            "mapping added to by '+NAME={KEY: VALUE}'."
        )
    whole = str(error).partition("Config search path:")[0]
    parts = [" ".join(line.split()) for line in whole.splitlines() if line.strip()]
    return BadInput(f"config: {' '.join(parts[:2])}" if parts else f"config: {type(error).__name__}")


def _unknown(name: str, overrides: list[str], primary: str) -> BadInput:
    """Finds what stands beside the setting that does not exist, by composing without it."""
    others = [o for o in overrides if o.lstrip("+~").partition("=")[0] != name]
    place, _, word = name.rpartition("@")[2].rpartition(".")  # of group@place, the place
    try:
        config = compose_config(others, primary) if len(others) < len(overrides) else None
    except BadInput:
        config = None
    node = OmegaConf.select(config, place) if config is not None and place else config
    while node is None and config is not None and place:
        place, _, word = place.rpartition(".")
        node = OmegaConf.select(config, place) if place else config
    if isinstance(node, DictConfig) and word in node:
        return BadInput(f"{name} is a mapping: to add to it, write '+{name}={{...}}' or '+{name}.KEY=...'.")
    known = [str(key) for key in node if key != "_target_"] if isinstance(node, DictConfig) else []
    if not place:
        known.append("experiment")
    added = f" To add it, write '+{name}=CHOICE'." if "@" in name else ""
    return BadInput(
        f"{name} is not a setting: {suggest_nearest(word, known)}" + (f" (in {place})" if place else "") + added
    )
