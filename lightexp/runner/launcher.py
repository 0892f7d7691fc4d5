"""Selection of the Hydra launcher by overrides such as `hydra/launcher=joblib`, for commands that are no Hydra app."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf.errors import OmegaConfBaseException

from lightexp.core.compat import make_hydra_context
from lightexp.execution.launcher import Launcher
from lightexp.runner.compose import add_config_dirs, as_bad_input, is_config_error
from lightexp.runner.config_dir import PRIMARY_CONFIG


def split_hydra_overrides(overrides: list[str]) -> tuple[list[str], list[str]]:
    """Split overrides into those about Hydra itself and the others.

    Example:
        >>> split_hydra_overrides(["hydra/launcher=joblib", "seed=1"])
        (['hydra/launcher=joblib'], ['seed=1'])
    """
    about_hydra = [text for text in overrides if text.lstrip("+~").startswith(("hydra/", "hydra."))]
    return about_hydra, [text for text in overrides if text not in about_hydra]


def drop_sweeps(overrides: list[str]) -> list[str]:
    """Return the overrides that set one value, without those that sweep over several.

    Example:
        >>> drop_sweeps(["seed=1,2,3", "model=lenet5"])
        ['model=lenet5']
    """
    parsed = OverridesParser.create().parse_overrides(overrides)
    return [text for text, override in zip(overrides, parsed, strict=True) if not override.is_sweep_override()]


def select_launcher(overrides: list[str], folders: list[str], outputs: Path, others: Sequence[str] = ()) -> Launcher:
    """Return the launcher that overrides select.

    Args:
        overrides: Overrides about Hydra.
        folders: The user's own config folders.
        outputs: The folder of all outputs.
        others: The command line's other overrides, of which `plugins=` allows launchers of the user's own packages.

    Raises:
        BadInput: If there is no such launcher, or a setting of it is wrong.
    """
    add_config_dirs(folders)
    hydra = GlobalHydra.instance().hydra
    assert hydra is not None
    job_overrides = ["paths.outputs='" + str(outputs).replace("\\", "\\\\").replace("'", "\\'") + "'"]
    job_overrides += [text for text in others if text.startswith("plugins=")]
    try:
        config = hydra.compose_config(
            PRIMARY_CONFIG, [*overrides, *job_overrides], RunMode.MULTIRUN, with_log_configuration=False
        )
    except (HydraException, OmegaConfBaseException, ValueError, TypeError) as error:
        if not is_config_error(error):
            raise
        raise as_bad_input(error, overrides) from None
    return Launcher(config, make_hydra_context(hydra.config_loader), job_overrides)
