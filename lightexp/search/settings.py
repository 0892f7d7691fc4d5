"""Settings of a study: the config node `search`."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import Field

from lightexp.core.config import Count, Index, Positive, settings_dataclass


@settings_dataclass
class SearchSettings:
    """`search`: how a study runs.

    Attributes:
        study: The study's name. Defaults to None: it is made of the model, the data set and the stages.
        trials: Number of trials of the complete study, over all commands and hosts. Defaults to 50.
        timeout: Seconds after which this command starts no trial. Defaults to None: no limit.
        trial_timeout: Seconds after which a trial fails. Defaults to None: no limit.
        workers: Number of processes that run trials. Defaults to 1.
        storage: Another journal file, or a PostgreSQL URL. Defaults to None: a journal file in the study's folder.
        resume: Whether to continue a study that exists already. Defaults to True.
        sampler: How Optuna proposes configurations. Defaults to `tpe`, which in studies of more than 500 trials learns
            from the most recent 500 and the best of the earlier ones.
        pruner: See `lightexp.search.pruners`. Defaults to None: every trial is trained to its end.
        halving: See `lightexp.search.halving`. Defaults to None: every trial is trained to its end.
        objectives: See `lightexp.search.goals`; `primary/val` is the task's primary metric.
        constraints: See `lightexp.search.goals`.
        space: A range for each dotted setting; `auto` for the default ranges of all stages, or of one.
        per_layer: For settings with a value for each layer, the pattern of the layers' names.
        corners: The seed trials; see `lightexp.search.seed_trials`.
        max_failures: Number of trials that may fail one after another. Defaults to 10.
        test: When the front is tested: `when_done`, once the study has ended, or `now`, as it is, without running any
            trial. Defaults to `when_done`.

    Example:
        >>> SearchSettings(trials=200, sampler="random").workers
        1
    """

    study: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[\w@=+-][\w.@=+-]*$")] | None = None
    trials: Count = 50
    timeout: Positive | None = None
    trial_timeout: Positive | None = None
    workers: Count = 1
    storage: str | None = None
    resume: bool = True
    sampler: Literal["tpe", "nsga2", "random", "qmc", "grid"] = "tpe"
    pruner: str | dict[str, Any] | None = None
    halving: dict[str, Any] | None = None
    objectives: list[str] = field(default_factory=list)
    constraints: list[Any] = field(default_factory=list)
    space: dict[str, Any] | Literal["auto"] = field(default_factory=dict)
    per_layer: dict[str, str] = field(default_factory=dict)
    corners: list[Literal["recipe", "int8", "strongest"]] = field(default_factory=list)
    max_failures: Index = 10
    test: Literal["when_done", "now"] = "when_done"
