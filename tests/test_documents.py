"""Run every command of README and guides; long ones with one epoch, three trials, or on digits."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.documents import (
    BENCHMARKS,
    BLOCKS,
    COMMANDS,
    LIGHTEXP_COMMANDS,
    ROOT,
    TRAINING,
    Block,
    need_fashion_mnist,
    run,
)

OUTPUT = {  # of the commands other than `run`
    "search": "3 trials done",
    "doctor": "This machine can run it",
    "store": "entries",
    "track": "there already",
    "guide": "lightexp",
    "ablate": "--plan",
    "register": "keywords version 1 (champion, smallest)",
