"""`lightexp.report`: tables, figures and a page from records, made in a worker process."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from lightexp.api.overrides import split_overrides

if TYPE_CHECKING:
    from lightexp.api.results import ReportResult

Place = str | os.PathLike[str]


def report(
    places: Place | Iterable[Place] | None = "outputs", overrides: str | Iterable[str] | None = None
) -> ReportResult:
    """Write a report of runs, a study, an ablation or an MLflow experiment, as `lightexp report` does.

    Args:
        places: An ablation's YAML file, an outputs folder, a study's folder, or folders of runs; None for an MLflow
            experiment, which `tracking.uri=` and `tracking.experiment=` name. Defaults to `outputs`.
        overrides: `only=TEXT`, `out=FOLDER`, `tracking.uri=URI`, `tracking.experiment=NAME`, or the settings that the
            ablation was run with, as a list or as one string. Defaults to none.

    Returns:
        The runs as a DataFrame (`frame`), statistics over the seeds (`statistics`), and the report's folder.

    Raises:
        BadInput: If there is no finished run, or if the runs cannot be compared.

    Example:
        >>> lightexp.report("outputs", "only=prune out=reports/pruned").page  # doctest: +SKIP
    """
    from lightexp.api.results import ReportResult
    from lightexp.api.worker_pool import build_request, call_once

    if places is None:
        places = []
    elif isinstance(places, str | os.PathLike):
        places = [places]
    request = build_request("report", split_overrides(overrides), places=[os.fspath(place) for place in places])
    return ReportResult(Path(call_once(request)["folder"]))
