"""Keys: what a result is made of, as one SHA-256."""

from __future__ import annotations

import hashlib
import json
import math
import sys
from dataclasses import fields, is_dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any


def canonicalize(value: Any) -> Any:
    """Returns `value` as JSON types in which equal settings are equal text.

    Dataclasses become their qualified name, `version` if they have one, and the fields that matter (those without
    `metadata={"keyed": False}`); mappings are sorted by key.

    Raises:
        TypeError: For a type that has no canonical form, such as an array or an open file.
        ValueError: For NaN or an infinity.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"a setting must be finite, not {value}")
        return value
    if isinstance(value, dict):
        return {str(k): canonicalize(v) for k, v in sorted(value.items(), key=lambda item: str(item[0]))}
    if isinstance(value, list | tuple):
        return [canonicalize(v) for v in value]
    if is_dataclass(value) and not isinstance(value, type):
        cls = type(value)
        settings = {
            f.name: canonicalize(getattr(value, f.name)) for f in fields(value) if f.metadata.get("keyed", True)
        }
        named = {"type": f"{cls.__module__}.{cls.__qualname__}", "version": getattr(cls, "version", 1)}
        source = hash_source(cls.__module__)
        return {**named, "settings": settings} | ({"source": source} if source else {})
    raise TypeError(f"{type(value).__name__} has no canonical form")


@cache
def hash_source(module: str) -> str | None:
    """Digest of a user's own package, whose code, all of it, is part of the key; None for lightexp's, with versions."""
    package = module.partition(".")[0]
    if package == "lightexp":
        return None
    found = find_package_paths(package)
    return compute_key([hash_path(Path(place), "*.py") for place in found]) if found else None


def find_package_paths(package: str) -> list[str]:
    """The folders of a package that was imported, or the file of a module."""
    found = sys.modules.get(package)
    return list(getattr(found, "__path__", None) or filter(None, [getattr(found, "__file__", None)]))


def compute_key(value: Any) -> str:
    """SHA-256 (64 hexadecimal digits) of a value's canonical form."""
    text = json.dumps(canonicalize(value), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def hash_file(path: Path) -> str:
    """SHA-256 (64 hexadecimal digits) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_path(place: Path, pattern: str = "*") -> str:
    """SHA-256 of a file, or of the names and the bytes of a folder's files.

    Args:
        place: The file or folder.
        pattern: Which files count of a folder, and of the folders in it. Defaults to all.
    """
    if place.is_file():
        return hash_file(place)
    seen = hashlib.sha256()
    for path in sorted(p for p in place.rglob(pattern) if p.is_file()):
        seen.update(f"{path.relative_to(place)} {hash_file(path)}\n".encode())
    return seen.hexdigest()


@cache
def read_library_versions() -> dict[str, str]:
    """Versions of the libraries whose code decides a result's bytes, read without importing them."""
    names = ("tensorflow", "tf-keras", "tensorflow-model-optimization", "ai-edge-litert", "numpy")
    return {name: metadata.version(name) for name in names}
