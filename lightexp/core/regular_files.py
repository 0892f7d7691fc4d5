"""Read and replace files whose paths come from a user or another file: regular files only.

A named pipe keeps the process that opens it waiting, and a device may have no end.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from io import BufferedReader
from pathlib import Path

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def require_regular(path: Path) -> None:
    """Check that a path leads to a regular file, also through links.

    Raises:
        OSError: If it does not; `strerror` says what it is.
    """
    _require_regular_mode(os.stat(path).st_mode, path)


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file for reading bytes, without waiting.

    Raises:
        OSError: If it cannot be opened, or is no regular file; `strerror` says what it is.
    """
    require_regular(path)  # first, because to open a device can have effects
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    try:
        _require_regular_mode(os.fstat(file.fileno()).st_mode, path)  # it may have been replaced
    except BaseException:
        file.close()
        raise
    return file


def read_bytes(path: Path) -> bytes:
    """Return the content of a regular file; raises as `open_regular`."""
    with open_regular(path) as file:
        return file.read()


def read_text(path: Path) -> str:
    """Return the content of a regular file of UTF-8 text.

    Raises:
        OSError: As `open_regular`.
        UnicodeDecodeError: If it is not UTF-8.
    """
    return read_bytes(path).decode()


def replace_file(path: Path, content: bytes) -> None:
    """Write a file that appears complete or not at all; what is in its place is replaced, and never written into.

    Raises:
        OSError: If it cannot be written, or a folder is in its place.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    draft.unlink(missing_ok=True)
    try:
        with draft.open("xb") as file:
            file.write(content)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _require_regular_mode(mode: int, path: Path) -> None:
    if not stat.S_ISREG(mode):
        number = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        raise OSError(number, f"it is {_KINDS.get(stat.S_IFMT(mode), 'something else')}, not a file", str(path))
