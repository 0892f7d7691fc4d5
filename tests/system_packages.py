"""The Debian packages that tests use, and the skip of a test whose package is missing.

`.ci/run` installs every package listed here; `tests/test_house.py` compares the two lists.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lightexp.datasets.downloadable import SYSTEM_FOLDERS
from lightexp.datasets.mnist_files import IDX_FILES

PROGRAMS = {
    "chromium": "chromium",
    "fish": "fish",
    "g++": "g++",
    "gcc": "gcc",
    "git": "git",
    "gzip": "gzip",
    "mount": "mount",
    "pdflatex": "texlive-latex-base",
    "zsh": "zsh",
}
"""The package that holds each program."""
OTHERS = ("dataset-fashion-mnist", "postgresql", "texlive-latex-recommended")
"""Packages without a program on the PATH."""
PACKAGES = frozenset([*PROGRAMS.values(), *OTHERS])


def require_program(name: str) -> str:
    """Return a program's path, or skip the test and name the Debian package that holds the program."""
    path = shutil.which(name)
    if path is None:
        skip_without(PROGRAMS[name])
    return str(path)


def require_postgresql() -> Path:
    """Return the folder of PostgreSQL's server programs, or skip the test."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not folders:
        skip_without("postgresql")
    return folders[-1]


def require_fashion_mnist() -> Path:
    """Return the folder of Debian's Fashion-MNIST files, or skip the test."""
    folder = next(
        (root / "fashion-mnist" for root in SYSTEM_FOLDERS if (root / "fashion-mnist" / IDX_FILES[0]).is_file()), None
    )
    if folder is None:
        skip_without("dataset-fashion-mnist")
    assert folder is not None
    return folder


def skip_without(package: str) -> None:
    """Skip the test for a missing Debian package."""
    assert package in PACKAGES, f"add {package} to tests/system_packages.py and to .ci/run"
    pytest.skip(f"needs Debian's package {package}")
