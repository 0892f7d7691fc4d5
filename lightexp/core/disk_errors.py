"""Errors of a disk that is full or cannot be written, as one line."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightexp.core.errors import LightexpError, RunFailed

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
NOT_WRITABLE = (errno.EACCES, errno.EROFS, errno.EPERM)
"""Error numbers of what this process may not write."""
_NO_PLACE = (errno.ENOTDIR, errno.EEXIST, errno.ELOOP, errno.EISDIR)
"""Error numbers of something else in the place of a file or folder."""
_SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")


class DiskFull(RunFailed):
    """A disk is full: the same work succeeds once there is space."""


@contextmanager
def explain_disk_errors(root: Path) -> Iterator[None]:
    """Raise RunFailed with a one-line message where the disk below `root` is full or cannot be written.

    Raises:
        DiskFull: If it is full.
        RunFailed: If it cannot be written.
    """
    try:
        yield
    except LightexpError:
        raise
    except Exception as error:
        if is_disk_full(error):
            raise describe_disk_full(error, root) from None
        if not isinstance(error, OSError):
            raise
        is_missing = error.errno == errno.ENOENT and str(error.filename).startswith(str(root))
        if is_missing or error.errno in (*NOT_WRITABLE, *_NO_PLACE):
            is_elsewhere = error.errno in _NO_PLACE and error.filename and Path(error.filename) != root
            place = f" ({error.filename})" if is_elsewhere else ""
            raise RunFailed(f"{root} cannot be written: {error.strerror}{place}. Set paths.outputs=FOLDER.") from None
        raise


def describe_disk_full(error: BaseException, place: object = None) -> DiskFull:
    """Return the error of a full disk with its message for the user.

    Args:
        error: An error for which `is_disk_full` holds.
        place: A folder on the disk. Defaults to None: the file that the error names, if it names one.
    """
    if isinstance(error, DiskFull):
        return error
    place = place or getattr(error, "filename", None)
    disk = f"The disk that holds {place}" if place else "A disk"
    return DiskFull(f"{disk} is full. Free some space and run the same command.")


def is_disk_full(error: BaseException) -> bool:
    """Check whether an error is that of a full disk or quota, also where a library raises it without its number.

    NumPy reports a write that was cut short by its two counts, HDF5 and TensorFlow by the system's message.
    """
    if isinstance(error, DiskFull):
        return True
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _DISK_FULL
    text = str(error)
    return any(os.strerror(number) in text for number in _DISK_FULL) or bool(_SHORT_WRITE.fullmatch(text))
