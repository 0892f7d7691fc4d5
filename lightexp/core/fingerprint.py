"""Store keys: SHA-256 of the settings, data and versions that a result depends on."""

from __future__ import annotations

import hashlib
import math
import sys
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from lightexp.core.json_text import encode_json
from lightexp.core.regular_files import open_regular


def canonicalize(value: Any, *, with_defaults: bool = False) -> Any:
    """Return `value` as JSON types in which equal settings are equal text.

    A dataclass becomes its qualified name, its `version` (1 where it has none) and those of its fields that differ from
    their defaults, so that a new field with a default changes no key; a changed default therefore needs a new
    `version`. Fields with `metadata={"keyed": False}` are left out. Mappings are sorted by key.

    Args:
        value: None, a boolean, a number, text, a list, tuple, mapping or dataclass of these.
        with_defaults: Whether to include fields that equal their defaults. Defaults to False.

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
        items = sorted(value.items(), key=lambda item: str(item[0]))
        return {str(name): canonicalize(item, with_defaults=with_defaults) for name, item in items}
    if isinstance(value, list | tuple):
        return [canonicalize(item, with_defaults=with_defaults) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return _canonicalize_settings(value, with_defaults)
    raise TypeError(f"{type(value).__name__} has no canonical form")


def _canonicalize_settings(value: Any, with_defaults: bool) -> dict[str, Any]:
    cls = type(value)
    settings: dict[str, Any] = {}
    for field in fields(value):
        if field.metadata.get("keyed", True):
            setting = canonicalize(getattr(value, field.name), with_defaults=with_defaults)
            if with_defaults or _has_new_version(setting) or not equals_default(field, setting):
                settings[field.name] = setting
    canonical = {
        "type": f"{cls.__module__}.{cls.__qualname__}",
        "version": getattr(cls, "version", 1),
        "settings": settings,
    }
    source = None if "version" in vars(cls) else hash_source(cls.__module__)
    return {**canonical, "source": source} if source else canonical


def equals_default(field: Field[Any], setting: Any) -> bool:
    """Check whether a setting is the default of its dataclass field.

    Args:
        field: The field.
        setting: Its value in canonical form. 1 and 1.0 are equal, 1 and `True` are not.
    """
    try:
        return _normalize(setting) == _normalize(canonicalize(get_default(field)))
    except (TypeError, ValueError):  # no default, or one without a canonical form
        return False


def get_default(field: Field[Any]) -> Any:
    """Return the default of a dataclass field; `dataclasses.MISSING` if it has none."""
    return field.default if field.default_factory is MISSING else field.default_factory()


def _has_new_version(setting: Any) -> bool:
    """Check whether a nested settings object is of a class whose results have changed since its first version."""
    return isinstance(setting, dict) and "settings" in setting and setting.get("version", 1) != 1


def _normalize(value: Any) -> str:
    """Return JSON text in which a whole number is the same text as an integer and as a float."""

    def normalize(item: Any) -> Any:
        if isinstance(item, float) and item.is_integer():
            return int(item)
        if isinstance(item, dict):
            return {name: normalize(inner) for name, inner in item.items()}
        return [normalize(inner) for inner in item] if isinstance(item, list) else item

    return encode_json(normalize(value), sort_keys=True)


@cache
def hash_source(module: str) -> str | None:
    """Return a digest of all source files of a user's package; None for lightexp's own.

    The digest is part of the key of every class of the package that does not declare a `version` itself, so that any
    change of its code changes the key. lightexp's classes, and a user's that declare one, have their `version` instead.

    Args:
        module: Name of the module that defines the class.
    """
    package = module.partition(".")[0]
    if package == "lightexp":
        return None
    paths = find_package_paths(package)
    return compute_key([hash_path(Path(path), "*.py") for path in paths]) if paths else None


def find_package_paths(package: str) -> list[str]:
    """Return the folders of an imported package, or the file of an imported module."""
    module = sys.modules.get(package)
    return list(getattr(module, "__path__", None) or filter(None, [getattr(module, "__file__", None)]))


def compute_key(value: Any) -> str:
    """Return the SHA-256 (64 hexadecimal digits) of a value's canonical form."""
    text = encode_json(canonicalize(value), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def hash_file(path: Path) -> str:
    """Return the SHA-256 (64 hexadecimal digits) of a regular file's bytes; raises as `open_regular`."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_path(place: Path, pattern: str = "*") -> str:
    """Return the SHA-256 of a file, or of the names and bytes of all files in a folder.

    Args:
        place: The file or folder.
        pattern: Glob pattern of the files that count, in the folder and in those below it. Defaults to all.
    """
    if place.is_file():
        return hash_file(place)
    digest = hashlib.sha256()
    for path in sorted(p for p in place.rglob(pattern) if p.is_file()):
        digest.update(f"{path.relative_to(place)} {hash_file(path)}\n".encode())
    return digest.hexdigest()


@cache
def read_library_versions() -> dict[str, str]:
    """Return the versions of the libraries that decide a result's bytes, without importing them."""
    names = ("tensorflow", "tf-keras", "tensorflow-model-optimization", "ai-edge-litert", "numpy")
    return {name: metadata.version(name) for name in names}
