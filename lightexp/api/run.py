"""`lightexp.run`: one pipeline, run in a worker process."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from lightexp.api.overrides import split_overrides

if TYPE_CHECKING:
    from lightexp.core.record import Record


def run(overrides: str | Iterable[str] | None = None) -> Record:
    """Run one pipeline, as `lightexp run` does on the command line, and return its record.

    The work is done in a worker process, so the caller's process may use TensorFlow and Keras 3 before and after. A
    worker is reused by later calls. Progress is logged to the logger `lightexp` at level INFO.

    Args:
        overrides: Settings that differ from the defaults: a list such as `["model=lenet5", "seed=1"]`, or one string
            as typed on the command line. Defaults to none.

    Returns:
        The run's record, with its metrics (`record.metrics`), its table and its folder's files.

    Raises:
        BadInput: If a setting or the data cannot be used.
        RunFailed: If the run failed. Its record says why.
        KeyboardInterrupt: If Ctrl-C was pressed. The record says `interrupted`.

    Example:
        >>> record = lightexp.run("pipeline=prune_quantize pipeline.stages.prune.sparsity=0.9")  # doctest: +SKIP
        >>> record.metrics["size/file_bytes"]  # doctest: +SKIP
        10984.0
    """
    from lightexp.api.worker_pool import WORKERS, build_request
    from lightexp.core.record import RECORD_FILE, build_record
    from lightexp.core.regular_files import read_text

    result = WORKERS.run(build_request("run", split_overrides(overrides)))
    # The worker has just written it; to check it again would import pydantic into the caller's process.
    return build_record(json.loads(read_text(Path(result["folder"]) / RECORD_FILE)))
