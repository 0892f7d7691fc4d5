"""Compare configs by the settings that differ from their defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, fields, is_dataclass
from typing import Any

from lightexp.core.config import locate
from lightexp.core.errors import BadInput
from lightexp.core.fingerprint import canonicalize, equals_default, get_default


def drop_defaults(config: Mapping[str, Any], plugins: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return a config without the settings that equal the defaults of the classes that `_target_` names.

    Two configs that are equal afterwards describe the same run, even if one was recorded before a setting existed.

    Args:
        config: A config of plain types, such as `record.config`.
        plugins: Packages outside `lightexp` whose classes may be imported. Nodes of other classes stay as they are.
    """
    reduced = {name: _drop(value, plugins) for name, value in config.items()}
    try:
        cls = locate(str(config["_target_"]), "", plugins) if "_target_" in config else None
    except BadInput:  # a class that has been removed, or whose package is not installed
        cls = None
    if cls is None:
        return reduced
    by_name = {field.name: field for field in fields(cls)}
    return {
        name: value for name, value in reduced.items() if name not in by_name or not _is_default(by_name[name], value)
    }


def _is_default(field: Field[Any], value: Any) -> bool:
    if isinstance(value, Mapping) and "_target_" in value:  # nested settings, their own defaults dropped already
        default = canonicalize(get_default(field)) if is_dataclass(get_default(field)) else {}
        return default.get("settings") == {} and dict(value) == {"_target_": default["type"]}
    return equals_default(field, value)


def _drop(value: Any, plugins: tuple[str, ...]) -> Any:
    if isinstance(value, Mapping):
        return drop_defaults(value, plugins)
    return [_drop(item, plugins) for item in value] if isinstance(value, list) else value
