"""lightexp: compare ways of making deep-learning models small, on the file that would ship.

Importing it loads no TensorFlow; it asks TensorFlow for legacy Keras, which tfmot needs.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

os.environ["TF_USE_LEGACY_KERAS"] = "1"

if TYPE_CHECKING:
    from pathlib import Path

    import pandas

    from lightexp.core.record import Record

__version__ = "0.1.0"
__all__ = ["records", "run"]


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
    from lightexp.runner.compose import forget, settings
    from lightexp.runner.run import Runner
    from lightexp.runner.watch import Silent

    forget()  # a config may have been edited since, as beside a notebook
    words = list(overrides or [])
    return Runner(Silent()).run(settings(words), words)


def records(where: Path | str = "outputs") -> pandas.DataFrame:
    """Reads the records of many runs into a table, a row for each; `lightexp.core.records.frame` names the columns.

    Args:
        where: An outputs folder, its `runs/`, or one run's folder. Defaults to `outputs` below the current folder.

    Returns:
        The runs, oldest first. A record that cannot be read is left out, with a warning that names it.

    Raises:
        lightexp.core.errors.BadInput: If `where` is not a folder.
    """
    import warnings

    from lightexp.core.records import found, frame

    sound, words = found(where)
    for line in words:
        warnings.warn(line, stacklevel=2)
    return frame(sound)
