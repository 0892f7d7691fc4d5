"""Pipes, devices, folders and loops in the place of files that commands and settings name."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fault_kinds.attempts import Attempt, Lost, call
from tests.path_arguments import PATH_ARGUMENTS
from tests.special_files import IRREGULAR, SPECIAL_FILES


@contextmanager
def prepare(folder: Path) -> Iterator[Attempt]:
    """Each attempt names something at random as one of the files that lightexp reads."""

    def attempt(rng: random.Random) -> None:
        name, use = PATH_ARGUMENTS[rng.choice(list(PATH_ARGUMENTS))]
        kind = rng.choice(list(SPECIAL_FILES))
        path = Path(tempfile.mkdtemp(dir=folder)) / name
        SPECIAL_FILES[kind](path)
        code = call(lambda: use(path))
        if kind in IRREGULAR and code != 2:
            raise Lost(f"{kind} as {name}: exit code {code}")

    yield attempt
