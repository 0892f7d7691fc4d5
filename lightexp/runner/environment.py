"""Where a run takes place, for its record."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from lightexp.core.fingerprint import read_library_versions


def describe_environment(threads: int) -> dict[str, Any]:
    """Versions, host, threads and the state of the current folder's git repository, as JSON types."""
    return {
        "lightexp": metadata.version("lightexp"),
        "python": platform.python_version(),
        "libraries": {
            **read_library_versions(),
            "mlflow": metadata.version("mlflow"),
            "hydra": metadata.version("hydra-core"),
        },
        "platform": platform.platform(),
        "host": platform.node(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": threads,
        "latency_threads": 1,
        "git": {"commit": _git("rev-parse", "HEAD"), "dirty": _dirty()},
        "folder": str(Path.cwd()),
    }


@cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _dirty() -> bool | None:
    changed = _git("status", "--porcelain", "--untracked-files=no")
    return None if changed is None else bool(changed)


def _git(*words: str) -> str | None:
    """What git prints in the current folder; None outside a repository or without git."""
    try:
        done = subprocess.run(["git", *words], capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
