"""A folder as object storage: the methods of an fsspec file system that `ObjectStorage` calls, without fsspec."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

UPLOADS = "uploads"
"""The folder in which files are written before they get their names."""
_LINKS_UNSUPPORTED = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP)  # on FAT and some mounted servers


class FolderStorage:
    """Files below a folder, which a file server may share.

    A file appears complete or not at all. Without hard links one that is created is empty for a moment, as which it is
    no lease and no manifest.
    """

    def __init__(self, root: str) -> None:
        """Create nothing yet."""
        self._uploads = Path(root) / UPLOADS

    def info(self, path: str) -> dict[str, Any]:
        """Describe a file or folder."""
        status = os.stat(path)
        kind = "directory" if Path(path).is_dir() else "file"
        return {"name": path, "type": kind, "size": status.st_size, "mtime": status.st_mtime}

    def find(self, path: str, detail: bool) -> dict[str, dict[str, Any]]:
        """Describe all files below a folder, by their paths; none if it does not exist."""

        def fail(error: OSError) -> None:
            if not isinstance(error, FileNotFoundError):
                raise error  # a listing that lacks records would let `store gc` remove what they name

        paths = [os.path.join(folder, name) for folder, _, names in os.walk(path, onerror=fail) for name in names]
        files = {}
        for file in paths:
            try:
                files[file] = self.info(file)
            except FileNotFoundError:  # another host has just removed it
                continue
        return files

    def cat_file(self, path: str, start: int, end: int) -> bytes:
        """Return some bytes of a file."""
        with Path(path).open("rb") as file:
            file.seek(start)
            return file.read(end - start)

    def get_file(self, path: str, target: str) -> None:
        """Copy a file to one elsewhere."""
        shutil.copyfile(path, target)

    def put_file(self, source: str, path: str) -> None:
        """Copy a file from elsewhere, in place of one that is there."""
        self._write(path, lambda draft: shutil.copyfile(source, draft))

    def pipe_file(self, path: str, content: bytes, mode: str) -> None:
        """Write a file.

        Args:
            path: Its path.
            content: Its bytes.
            mode: `overwrite`, or `create` to write it only if it does not exist.

        Raises:
            FileExistsError: If it exists, and `mode` is `create`.
        """
        self._write(path, lambda draft: draft.write_bytes(content), mode == "create")

    def rm_file(self, path: str) -> None:
        """Remove a file."""
        os.unlink(path)

    def _write(self, path: str, write: Callable[[Path], object], create: bool = False) -> None:
        self._uploads.mkdir(parents=True, exist_ok=True)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        draft = self._uploads / uuid.uuid4().hex
        try:
            write(draft)
            if not create:
                draft.replace(path)
            elif not _link(draft, path):
                with open(path, "xb"):  # claims the name
                    draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)


def _link(draft: Path, path: str) -> bool:
    """Give a file a second name that nothing has; return False where the file system has no hard links."""
    try:
        os.link(draft, path)
    except OSError as error:
        if error.errno not in _LINKS_UNSUPPORTED:
            raise
        return False
    return True
