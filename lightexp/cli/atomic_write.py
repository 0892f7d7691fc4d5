"""Files that a command writes: all of them or none, and none over another unasked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from lightexp.core.errors import BadInput


def write_files(files: Mapping[Path, bytes], force: bool) -> None:
    """Writes files, and says where they are.

    Raises:
        BadInput: If one is there already and `force` is not set, or cannot be written.
    """
    for path in files:
        if path.exists() and not (force and path.is_file()):
            raise BadInput(f"{path} exists. Give --force to replace it, or another place with -o.")
    with ExitStack() as clean:
        drafts = {path: path.with_name(f".{path.name}.{os.getpid()}") for path in files}
        try:
            for path, content in files.items():
                clean.callback(drafts[path].unlink, missing_ok=True)
                drafts[path].write_bytes(content)
            for path in files:
                drafts[path].replace(path)
        except OSError as error:
            raise BadInput(f"{path} cannot be written: {error.strerror}. Give another place with -o.") from None
    for path, content in files.items():
        print(f"{path} ({len(content):,} bytes)")
