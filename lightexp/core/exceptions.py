"""Unexpected exceptions: a one-line summary, the traceback in a file, and the plugin line that raised it."""

from __future__ import annotations

import re
import tempfile
import traceback
from collections.abc import Iterable
from pathlib import Path

from lightexp.core.disk_errors import describe_disk_full, is_disk_full
from lightexp.core.errors import RunFailed
from lightexp.core.secrets import hide_secrets

_PLACE = re.compile(
    r'File "([^"\n]+)", line (\d+)'
)  # TensorFlow's messages quote lines of traced code in this form too


def summarize_exception(error: BaseException, plugins: Iterable[str] = (), file: Path | None = None) -> RunFailed:
    """Return an unexpected exception as a one-line error, and write its traceback to a file.

    That of a full disk is no defect: it is returned as `DiskFull`, and nothing is written.

    Args:
        error: The exception.
        plugins: The user's packages; the summary names their last line in the traceback. Defaults to none.
        file: Where to write the traceback. Defaults to None: a temporary file.
    """
    from lightexp.core.fingerprint import find_package_paths  # not needed for --help

    if is_disk_full(error):
        return describe_disk_full(error)
    text = hide_secrets("".join(traceback.format_exception(error)))
    if file is None:
        with tempfile.NamedTemporaryFile(prefix="lightexp-", suffix=".txt", delete=False) as temporary:
            file = Path(temporary.name)
    file.write_text(text, encoding="utf-8", errors="backslashreplace")
    message = _select_line(str(error))
    kind = type(error).__name__
    if message:
        kind = "" if message.startswith(kind) else f"{kind}: "
    roots = [root for name in plugins for root in find_package_paths(name)]
    places = [
        f"{path}, line {line}: " for path, line in _PLACE.findall(text) if any(map(Path(path).is_relative_to, roots))
    ]
    place = places[-1] if places else ""
    return RunFailed(f"{place}{kind}{message} (the traceback is in {file})")


def _select_line(message: str) -> str:
    """Return the line of a message that says most: the first, or the last where the first only introduces it."""
    lines = [line.strip() for line in message.splitlines() if line.strip() and not line.strip().startswith("[[")]
    if not lines:
        return ""
    return (lines[-1] if lines[0].endswith(":") else lines[0]).removesuffix(":")
