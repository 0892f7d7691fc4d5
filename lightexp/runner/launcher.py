"""Selection of the Hydra launcher by overrides such as `hydra/launcher=joblib`, for commands that are no Hydra app."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, RangeSweep
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf.errors import OmegaConfBaseException

from lightexp.core.compat import make_hydra_context
from lightexp.core.errors import BadInput
from lightexp.execution.launcher import Launcher
from lightexp.execution.ray_cluster import RayCluster
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


def count_jobs(overrides: list[str]) -> int:
    """Return the number of jobs that overrides sweep over, in all combinations, without listing them.

    Raises:
        BadInput: If Hydra cannot read the overrides.

    Example:
        >>> count_jobs(["seed=1,2,3", "pipeline.stages.prune.sparsity=range(0,1,0.00001)", "model=lenet5"])
        300000
    """
    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
    except HydraException as error:
        raise as_bad_input(error, overrides) from None
    sweeps = [override.value() for override in parsed if override.is_sweep_override()]
    sizes = [len(sweep.list) for sweep in sweeps if isinstance(sweep, ChoiceSweep)]
    for sweep in sweeps:
        if isinstance(sweep, RangeSweep) and sweep.start is not None and sweep.stop is not None and sweep.step:
            sizes.append(max(0, math.ceil((sweep.stop - sweep.start) / sweep.step)))
    return math.prod(sizes)


def select_launcher(
    overrides: list[str],
    folders: list[str],
    outputs: Path,
    others: Sequence[str] = (),
    remote_store: str | None = None,
) -> Launcher:
    """Return the launcher that overrides select.

    Args:
        overrides: Overrides about Hydra.
        folders: The user's own config folders.
        outputs: The folder of all outputs.
        others: The command line's other overrides, of which `plugins=` allows launchers of the user's own packages.
        remote_store: See `Settings.remote_store`. Defaults to None: the jobs share this host's folders.

    Raises:
        BadInput: If there is no such launcher, or a setting of it is wrong.
    """
    add_config_dirs(folders)
    plugins = [text for text in others if text.startswith("plugins=")]
    if remote_store is not None:
        plugins.append(f"store.remote={_quote(remote_store)}")
    launcher = _compose_launcher(overrides, [f"paths.outputs={_quote(str(outputs))}", *plugins])
    if launcher.shares_folder:
        return launcher
    return _compose_launcher(overrides, [f"paths.outputs={_quote(str(find_node_folder(outputs)))}", *plugins])


def connect_grid(argv: list[str]) -> None:
    """Connect to the Ray cluster that the command line of a grid names, if it names one, before Hydra's launcher does.

    The launcher itself would refuse a running cluster for a default of its own, and run jobs on any node.

    Args:
        argv: The command line after `lightexp run`.

    Raises:
        BadInput: If the cluster cannot be used, or a node does not see the current folder.
    """
    settings = {place: _read_overrides(argv, f"hydra.launcher.ray.{place}.") for place in ("init", "remote")}
    if not settings["init"].get("address"):
        return
    cluster = RayCluster(**settings)
    if any(argument.startswith("hydra/sweeper=") for argument in argv):  # which connects itself
        cluster.check_port()
    elif blind_nodes := cluster.connect(Path.cwd()):
        raise BadInput(
            f"Ray's nodes {', '.join(blind_nodes)} do not see {Path.cwd()}, which the jobs of a grid need. "
            "Share it, or use lightexp search or ablate with store.remote=s3://BUCKET/PREFIX."
        )


def _read_overrides(argv: list[str], prefix: str) -> dict[str, Any]:
    """Return the values of the overrides below a place, by the rest of their names."""
    chosen = [argument for argument in argv if argument.lstrip("+").startswith(prefix)]
    parsed = OverridesParser.create().parse_overrides(chosen)
    return {override.key_or_group.removeprefix(prefix): override.value() for override in parsed}


def find_node_folder(folder: Path) -> Path:
    """Return the path of a folder for nodes that work in their own folders: relative if it is in the current one."""
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def _quote(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _compose_launcher(overrides: list[str], job_overrides: list[str]) -> Launcher:
    hydra = GlobalHydra.instance().hydra
    assert hydra is not None
    try:
        config = hydra.compose_config(
            PRIMARY_CONFIG, [*overrides, *job_overrides], RunMode.MULTIRUN, with_log_configuration=False
        )
    except (HydraException, OmegaConfBaseException, ValueError, TypeError) as error:
        if not is_config_error(error):
            raise
        raise as_bad_input(error, overrides) from None
    return Launcher(config, make_hydra_context(hydra.config_loader), job_overrides)
