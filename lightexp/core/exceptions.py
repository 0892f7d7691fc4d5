"""An error that nobody foresaw: one line for the user, the whole of it in a file, and whose code raised it."""

from __future__ import annotations

import re
import tempfile
import traceback
from collections.abc import Iterable
from pathlib import Path

from lightexp.core.errors import RunFailed

_PLACE = re.compile(r'File "([^"\n]+)", line (\d+)')  # in what a graph's error tells of the code it was made from, too


def summarize_exception(error: BaseException, plugins: Iterable[str] = (), file: Path | None = None) -> RunFailed:
    """The error in one line.

    Args:
        error: What was raised.
        plugins: The user's packages; the last line of theirs that the error comes through is named.
        file: Where to write the whole error; None makes a temporary file.
    """
    from lightexp.core.fingerprint import find_package_paths  # not on the way to --help

    whole = "".join(traceback.format_exception(error))
    if file is None:
        with tempfile.NamedTemporaryFile(prefix="lightexp-", suffix=".txt", delete=False) as made:
            file = Path(made.name)
    file.write_text(whole)
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.strip().startswith("[[")]
    words = "" if not lines else lines[-1] if lines[0].endswith(":") else lines[0]
    kind = "" if words.startswith(type(error).__name__) else f"{type(error).__name__}: "
    roots = [root for name in plugins for root in find_package_paths(name)]
    own = [
        f"{path}, line {line}: " for path, line in _PLACE.findall(whole) if any(map(Path(path).is_relative_to, roots))
    ]
    return RunFailed(f"{own[-1] if own else ''}{kind}{words} (the whole error is in {file})")
