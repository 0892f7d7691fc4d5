"""Write the files of a command, all of them or none, and replace existing ones only on request."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from lightexp.cli.printing import print_line
from lightexp.core.errors import BadInput


def write_files(files: Mapping[Path, bytes], force: bool) -> None:
    """Write files and print their paths and sizes.

    Args:
        files: The content of each file.
        force: Whether existing files are replaced.

    Raises:
        BadInput: If a file exists and `force` is False, or cannot be written.
    """
    for path in files:
        if path.exists() and not (force and path.is_file()):
            raise BadInput(f"{path} exists. Give --force to replace it, or another place with -o.")
    with ExitStack() as cleanup:
        drafts = {path: path.with_name(f".{path.name}.{os.getpid()}") for path in files}
        try:
            for path, content in files.items():
                cleanup.callback(drafts[path].unlink, missing_ok=True)
                drafts[path].write_bytes(content)
            for path in files:
                drafts[path].replace(path)
        except OSError as error:
            raise BadInput(f"{path} cannot be written: {error.strerror}. Give another place with -o.") from None
    for path, content in files.items():
        print_line(f"{path} ({len(content):,} bytes)")
