"""Changes in the source of plugins that a process has imported."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lightexp.core.fingerprint import find_package_paths, hash_path


class PluginSources:
    """Digests of the source files of imported plugins."""

    def __init__(self) -> None:
        """Start without plugins."""
        self._digests: dict[str, str] = {}

    def add(self, packages: Iterable[str]) -> None:
        """Remember the present source of imported packages that are not known yet."""
        for package in packages:
            for path in find_package_paths(package):
                if path not in self._digests:
                    self._digests[path] = _compute_digest(path)

    def have_changed(self) -> bool:
        """Return whether the source of a remembered package differs from when it was imported."""
        return any(_compute_digest(path) != digest for path, digest in self._digests.items())


def _compute_digest(path: str) -> str:
    try:
        return hash_path(Path(path), "*.py")
    except OSError:
        return ""
