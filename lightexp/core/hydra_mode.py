"""Tell Hydra its mode without composing a config for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def answer_mode_query(config_loader: Any, overrides: Sequence[str], options: Mapping[str, Any]) -> Any:
    """Return a config with `hydra.mode` alone if Hydra wants nothing else, and it is known; else None.

    Hydra 1.3.8's `hydra.main` composes each config twice, first only to read `hydra.mode` (`Hydra.get_mode`, which
    alone switches the check of sweeps off). That takes almost half of a second run's time. No config of lightexp's
    own sets the mode.

    Args:
        config_loader: Hydra's config loader.
        overrides: Of the command line.
        options: What Hydra passes to `ConfigLoader.load_configuration` by name.
    """
    from omegaconf import OmegaConf

    sources = {element.provider for element in config_loader.config_search_path.get_path()}
    may_be_set = not sources <= {"hydra", "main", "schema"} or any("hydra" in override for override in overrides)
    if may_be_set or options.get("validate_sweep_overrides", True):
        return None
    return OmegaConf.create({"hydra": {"mode": None}})
