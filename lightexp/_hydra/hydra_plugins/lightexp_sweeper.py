"""`hydra/sweeper=lightexp`: an Optuna study over the core of `lightexp search`.

Hydra imports this at the start of every application in this environment: nothing heavy at the top.
"""

from __future__ import annotations

from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class LightexpSweeper(Sweeper):
    """Ranges on the command line are the space; see `lightexp.search.study_spec.SearchSettings` for the fields."""

    def __init__(self, **search: Any) -> None:
        """Takes the fields as the config has them."""
        self._search = search

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keeps what the launcher needs; the task is not Hydra's but a worker of the study."""
        self._context, self._config = hydra_context, config
        self._plan_only = getattr(getattr(task_function, "__self__", None), "plan_only", False)

    def sweep(self, arguments: list[str]) -> None:
        """Runs the study, or with `--plan` shows what it would do.

        Raises:
            LightexpError: If it is wrong, or no trial of it has succeeded.
            KeyboardInterrupt: If it was interrupted.
        """
        from lightexp.cli.search import run_sweep

        fields = {name: OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for name, v in self._search.items()}
        run_sweep(arguments, fields, self._config, self._context, self._plan_only)
