"""A file system of a few megabytes, for tests of a full disk."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.system_packages import require_program


@contextmanager
def mount_small_disk(folder: Path, megabytes: int = 1) -> Iterator[Path]:
    """Provide the folder of a small file system, or skip the test if it cannot be mounted."""
    folder.mkdir()
    require_program("mount")
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {result.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill_disk(folder: Path, spare_pages: int = 0) -> Path:
    """Write a file that leaves only a number of pages free, and return it."""
    filler = folder / "filler"
    filler.write_bytes(b"")
    free = os.statvfs(folder)
    filler.write_bytes(bytes((free.f_bavail - spare_pages) * free.f_bsize))
    return filler
