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
_NOT_WRITABLE = (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.ELOOP)
_SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")


@contextmanager
def explain_disk_errors(root: Path) -> Iterator[None]:
    """Raise RunFailed with a one-line message where the disk below `root` is full or cannot be written."""
    try:
        yield
    except LightexpError:
        raise
    except Exception as error:
        if is_disk_full(error):
            raise RunFailed(f"The disk that holds {root} is full. Free some space and run the same command.") from None
        if not isinstance(error, OSError):
            raise
        is_missing = error.errno == errno.ENOENT and str(error.filename).startswith(str(root))
        if is_missing or error.errno in _NOT_WRITABLE:
            raise RunFailed(f"{root} cannot be written: {error.strerror}. Set paths.outputs=FOLDER.") from None
        raise


def is_disk_full(error: Exception) -> bool:
    """Check whether an error is that of a full disk or quota, also where a library raises it without its number.

    NumPy reports a write that was cut short by its two counts, HDF5 and TensorFlow by the system's message.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _DISK_FULL
    text = str(error)
    return any(os.strerror(number) in text for number in _DISK_FULL) or bool(_SHORT_WRITE.fullmatch(text))
