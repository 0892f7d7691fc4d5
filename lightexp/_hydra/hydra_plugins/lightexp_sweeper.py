"""Hydra sweeper `hydra/sweeper=lightexp`: runs an Optuna study, as `lightexp search` does.

Hydra imports this module at the start of every application in the environment, so heavy imports are made where needed.
"""

from __future__ import annotations

from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class LightexpSweeper(Sweeper):
    """Searches the ranges of the command line; see `lightexp.search.settings.SearchSettings` for its settings."""

    def __init__(self, **search: Any) -> None:
        """Take the settings as the config has them."""
        self._search = search

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what the launcher needs; see `hydra.plugins.sweeper.Sweeper.setup`.

        Args:
            hydra_context: Hydra's loaders.
            task_function: Not called, since the launcher's jobs are workers of the study. Its object says whether
                `--plan` was given.
            config: The composed config.
        """
        self._context, self._config = hydra_context, config
        self._plan_only = getattr(getattr(task_function, "__self__", None), "plan_only", False)

    def sweep(self, arguments: list[str]) -> None:
        """Run the study, or with `--plan` show what it would do.

        Args:
            arguments: Overrides, of which the sweeps are the search space.

        Raises:
            LightexpError: If the study is wrong, or none of its trials has succeeded.
            KeyboardInterrupt: If it was interrupted.
        """
        from lightexp.cli.search import run_sweep

        settings = {
            name: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
            for name, value in self._search.items()
        }
        run_sweep(arguments, settings, self._config, self._context, self._plan_only)
