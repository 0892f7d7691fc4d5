"""lightexp: compare ways of making deep-learning models small, on the file that would ship.

Importing it loads no TensorFlow; it asks TensorFlow for legacy Keras, which tfmot needs.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from lightexp.core.version import __version__

os.environ["TF_USE_LEGACY_KERAS"] = "1"

if TYPE_CHECKING:
    from pathlib import Path

    import pandas

    from lightexp.core.record import Record

__all__ = ["__version__", "records", "run"]


def run(overrides: list[str] | None = None) -> Record:
    """Runs one pipeline, as `lightexp run` does on the command line.

    Args:
        overrides: Such as `["model=lenet5", "pipeline.stages.prune.sparsity=0.9"]`. Defaults to none.

    Returns:
        The run's record.

    Raises:
        lightexp.core.errors.BadInput: If a setting or the data cannot be used.
        lightexp.core.errors.RunFailed: If the work could not be finished.
    """
    from lightexp.runner.compose import clear_cache, compose_settings
    from lightexp.runner.progress import SilentReporter
    from lightexp.runner.run import Runner

    clear_cache()  # a config may have been edited since, as beside a notebook
    words = list(overrides or [])
    return Runner(SilentReporter()).run(compose_settings(words), words)


def records(where: Path | str = "outputs") -> pandas.DataFrame:
    """Read the records of many runs into a table, a row for each run.

    Args:
        where: An outputs folder, its `runs/`, or one run's folder. Defaults to `outputs` below the current folder.

    Returns:
        The runs, oldest first. A record that cannot be read is left out, with a warning that names it.

    Raises:
        lightexp.core.errors.BadInput: If `where` is not a folder.
    """
    import warnings

    from lightexp.core.records import build_frame, load_records

    sound, words = load_records(where)
    for line in words:
        warnings.warn(line, stacklevel=2)
    return build_frame(sound)
