"""Describe where a run takes place: versions, host, threads and git state, for its record."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from lightexp.core.fingerprint import read_library_versions

CPU = Path("/sys/devices/system/cpu")


def describe_environment(threads: int) -> dict[str, Any]:
    """Return versions, host, threads and the state of the current folder's git repository, as JSON types.

    Args:
        threads: Number of threads that may compute.
    """
    return {
        "lightexp": metadata.version("lightexp"),
        "python": platform.python_version(),
        "libraries": {
            **read_library_versions(),
            "mlflow": metadata.version("mlflow"),
            "hydra": metadata.version("hydra-core"),
            "ethos-u-vela": metadata.version("ethos-u-vela"),
        },
        "platform": platform.platform(),
        "host": platform.node(),
        "processor": read_processor(),
        "governor": read_governor(),
        "turbo": read_turbo(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": threads,
        "latency_threads": 1,
        "git": {"commit": _run_git("rev-parse", "HEAD"), "dirty": _is_dirty()},
        "folder": str(Path.cwd()),
    }


@cache
def read_processor() -> str:
    """Return the name of the processor's model; empty where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def read_governor() -> str | None:
    """Return what governs the processors' frequency, such as `performance`; None where the system does not tell."""
    files = sorted((CPU / "cpufreq").glob("policy*/scaling_governor"))
    return ", ".join(sorted({text for file in files if (text := _read_line(file))})) or None


def read_turbo() -> bool | None:
    """Return whether processors may exceed their base frequency; None where the system does not tell."""
    if disabled := _read_line(CPU / "intel_pstate/no_turbo"):
        return disabled == "0"
    boost = _read_line(CPU / "cpufreq/boost")
    return boost == "1" if boost else None


def _read_line(path: Path) -> str:
    """Return a system file's text without its line end; nothing where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _is_dirty() -> bool | None:
    changed = _run_git("status", "--porcelain", "--untracked-files=no")
    return None if changed is None else bool(changed)


def _run_git(*arguments: str) -> str | None:
    """Return what git prints in the current folder; None outside a repository or without git."""
    try:
        command = ["git", *arguments]
        finished = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return finished.stdout.strip()
