"""`lightexp.search`: a study of a pipeline's settings, in worker processes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from lightexp.api.overrides import split_overrides

if TYPE_CHECKING:
    from lightexp.api.results import SearchResult


def search(overrides: str | Iterable[str] | None = None) -> SearchResult:
    """Search a pipeline's settings with Optuna, as `lightexp search` does, and return the trade-off front.

    The same call continues a study. Progress is logged to the logger `lightexp` at level INFO. The first Ctrl-C lets
    the running trials finish, the second one stops them.

    Args:
        overrides: Settings and ranges such as `"search.trials=20 pipeline.stages.prune.sparsity=interval(0.5,0.98)"`,
            as a list or as one string. Defaults to none: the default preset.

    Returns:
        The front as a DataFrame (`frame`), all trials (`trials`), and the study's folder.

    Raises:
        BadInput: If a setting, a range or the data cannot be used.
        RunFailed: If no trial has succeeded.
        KeyboardInterrupt: If Ctrl-C was pressed. The same call goes on.

    Example:
        >>> lightexp.search("model=lenet5 search.trials=8").frame  # doctest: +SKIP
    """
    from lightexp.api.results import SearchResult
    from lightexp.api.worker_pool import build_request, call_once

    result = call_once(build_request("search", split_overrides(overrides)))
    return SearchResult(Path(result["folder"]))
