"""Refuse searches for metrics of an NPU whose files compute in float, because an NPU computes only integers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from lightexp.core.errors import BadInput, InvalidSetting
from lightexp.core.protocols import Stage
from lightexp.runner.settings import Settings

_SCHEME = re.compile(r"pipeline\.stages\.(?P<stage>[^.]+)\.scheme")


def require_integer_files(objectives: Iterable[str], variants: Iterable[Settings], ranges: Mapping[str, str]) -> None:
    """Check that the files of every trial compute with integers, if an objective is a metric of an NPU.

    Args:
        objectives: Names of the objectives' metrics.
        variants: Settings of each pipeline variant.
        ranges: Range of each searched setting, by its name.

    Raises:
        BadInput: If trials would not have that metric.
    """
    goal = next((name for name in objectives if name.startswith("npu/")), None)
    if goal is None:
        return
    for settings in variants:
        if not settings.model.trainable:  # its file may hold integers already
            continue
        if not any(stage.computes_in_integers for stage in settings.stages.values()):
            raise BadInput(
                f"search.objectives: {goal} needs files that compute with integers, and {'-'.join(settings.stages)} "
                "makes none. Set pipeline.stages.quantize.scheme=int8 and io=integer, or take pipeline=prune_int8."
            )
        for name, text in ranges.items():
            match = _SCHEME.fullmatch(name)
            stage: Any = settings.stages.get(match["stage"]) if match else None
            for choice in re.findall(r"\w+", text.partition("(")[2]) if stage else ():
                if not _computes_in_integers(stage, choice):
                    raise BadInput(
                        f"search.objectives: {goal} needs files that compute with integers, and {name}={choice}, "
                        f"of {text}, makes none. Write '{name}=int8' or '{name}=choice(int8,int16x8)'."
                    )


def _computes_in_integers(stage: Stage, scheme: str) -> bool:
    """Return whether a stage with another scheme computes with integers; a scheme it does not have is refused later."""
    try:
        changed: Stage = replace(stage, scheme=scheme)  # type: ignore[type-var]
    except InvalidSetting as error:
        return error.place == "scheme"  # else the scheme does not go with integer inputs and outputs
    return changed.computes_in_integers
