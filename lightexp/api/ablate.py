"""`lightexp.ablate`: the rows and seeds of an ablation file, in worker processes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from lightexp.api.overrides import split_overrides

if TYPE_CHECKING:
    from lightexp.api.results import ReportResult


def ablate(
    path: str | os.PathLike[str], overrides: str | Iterable[str] | None = None, *, workers: int = 1
) -> ReportResult:
    """Run the missing rows and seeds of an ablation file, as `lightexp ablate` does, and return its report.

    The same call continues an ablation. Progress is logged to the logger `lightexp` at level INFO.

    Args:
        path: The ablation's YAML file.
        overrides: Settings for every row, as a list or as one string. Defaults to none.
        workers: Processes that share the cores. Defaults to 1.

    Returns:
        The runs as a DataFrame (`frame`), statistics over the seeds (`statistics`), and the report's folder.

    Raises:
        BadInput: If the file or a setting cannot be used.
        RunFailed: If a row failed. The others are run, and the report is written.
        KeyboardInterrupt: If Ctrl-C was pressed. The same call goes on.

    Example:
        >>> lightexp.ablate("experiments/01_article.yaml", "dataset=mnist", workers=2).frame  # doctest: +SKIP
    """
    from lightexp.api.results import ReportResult
    from lightexp.api.worker_pool import build_request, call_once

    request = build_request("ablate", split_overrides(overrides), path=os.fspath(path), workers=workers)
    return ReportResult(Path(call_once(request)["folder"]))
