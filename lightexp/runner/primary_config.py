"""Write a run's config as a file that `lightexp run --config-name` takes."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from lightexp.core.regular_files import replace_file

_HYDRA = {
    "defaults": [{"override hydra/job_logging": "none"}, {"override hydra/hydra_logging": "none"}, "_self_"],
    "hydra": {"run": {"dir": "."}, "output_subdir": None, "job": {"chdir": False}},
}
"""What a config file needs besides the run's config."""


def write_primary_config(path: Path, config: Mapping[str, Any], title: str) -> str:
    """Write the config file of a run; its folder is created if needed.

    Args:
        path: The file, `NAME.yaml`.
        config: The run's config, as a record has it.
        title: What it is, for the comment at the file's top.

    Returns:
        The command that runs it.
    """
    command = shlex.join(["lightexp", "run", f"--config-dir={path.parent}", f"--config-name={path.stem}"])
    path.parent.mkdir(parents=True, exist_ok=True)
    text = OmegaConf.to_yaml(OmegaConf.create({**_HYDRA, **config, **_HYDRA}))  # a record may be another person's
    replace_file(path, f"# {title}: {command}\n{text}".encode())
    return command
