"""`lightexp.records`: the records of many runs or trials as one table."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas


def records(where: Path | str = "outputs") -> pandas.DataFrame:
    """Read the records of runs, or of the trials of searches, into a table.

    Args:
        where: An outputs folder or its `runs/`, for runs; its `searches/` or one study's folder, for trials; or the
            folder of one run. An outputs folder without runs stands for its trials. Defaults to `outputs` in the
            current folder.

    Returns:
        One row for each run, oldest first. Columns: `id`, `name`, `status`, `reason`, `started` (UTC), `seconds`,
        `seed`, `model`, `dataset`, `pipeline`, `varied`, then the settings that some run overrides, then the metrics
        of the shipped file. Warns of records that cannot be read, and if there is no record.

    Raises:
        BadInput: If `where` is not a folder.

    Example:
        >>> lightexp.records("outputs")[["pipeline", "size/file_bytes", "accuracy/val"]]  # doctest: +SKIP
    """
    from lightexp.core.records import (
        build_frame,
        limit_complaints,
        list_run_folders,
        list_trial_folders,
        read_folders,
    )

    folders = list_run_folders(where) or list_trial_folders(where)
    sound, messages = read_folders(folders)
    for message in limit_complaints(messages):
        warnings.warn(message, stacklevel=2)
    if not folders:
        searched = Path(where).expanduser().absolute()
        warnings.warn(
            f"no run and no trial is recorded in {searched}. Name an outputs folder, its runs/ or searches/, the "
            "folder of a study, or the folder of one run.",
            stacklevel=2,
        )
    return build_frame(sound)
