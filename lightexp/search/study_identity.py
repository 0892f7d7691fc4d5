"""Study identity: the settings that two commands must share to work on one study."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from lightexp.core.fingerprint import canonicalize, equals_default, hash_source
from lightexp.core.json_text import encode_json
from lightexp.core.moved import resolve_target
from lightexp.core.secrets import hide_secrets


@dataclass(frozen=True)
class StudyIdentity:
    """Everything that decides a study's results, flat and as text.

    Attributes:
        values: Each setting's value as JSON, by its dotted name; the names are those of the config.
        at_default: Names of the settings that have their default value.
    """

    values: dict[str, str]
    at_default: frozenset[str] = frozenset()

    def find_difference(self, stored: Mapping[str, str]) -> tuple[str, str, str] | None:
        """Compare with the values that a study was made with.

        A setting that was added to lightexp since counts as equal where it has its default.

        Args:
            stored: `values` of the study's identity, possibly written by an earlier version.

        Returns:
            The first setting that differs, by name, with its stored and its present value; None if none does.
        """
        for name in sorted(stored.keys() | self.values.keys()):
            if name not in stored and name in self.at_default:
                continue
            if name not in self.values and name.endswith(".source"):
                continue  # a class that declares its version is no longer identified by its source, too
            before, now = hide_secrets(_upgrade(name, stored.get(name, "nothing"))), self.values.get(name, "nothing")
            if before != now:
                return name, before, now
        return None


def describe_identity(settings: Mapping[str, Any]) -> StudyIdentity:
    """Make the identity of a study from its settings.

    Args:
        settings: Dataclasses of settings and plain values, by their dotted place in the config.
    """
    entries = [entry for place, value in settings.items() for entry in _flatten(place, value, False)]
    return StudyIdentity(
        {name: text for name, text, _ in sorted(entries)},
        frozenset(name for name, _, at_default in entries if at_default),
    )


def _flatten(place: str, value: Any, at_default: bool) -> Iterator[tuple[str, str, bool]]:
    """Yield the name and the JSON of every value below a place, and whether it is a default."""
    if is_dataclass(value) and not isinstance(value, type):
        yield from _flatten_dataclass(place, value, at_default)
    elif isinstance(value, Mapping) and value:
        for key, entry in value.items():
            yield from _flatten(f"{place}.{key}", entry, at_default)
    else:
        yield place, hide_secrets(encode_json(canonicalize(value, with_defaults=True), sort_keys=True)), at_default


def _flatten_dataclass(place: str, value: Any, at_default: bool) -> Iterator[tuple[str, str, bool]]:
    cls = type(value)
    facts = {"type": f"{cls.__module__}.{cls.__qualname__}", "version": getattr(cls, "version", 1)}
    source = None if "version" in vars(cls) else hash_source(cls.__module__)
    if source:
        facts["source"] = source
    for name, fact in facts.items():
        yield f"{place}.{name}", encode_json(fact), at_default
    keyed = [field for field in fields(value) if field.metadata.get("keyed", True)]
    if not keyed:
        yield f"{place}.settings", "{}", at_default
    for field in keyed:
        setting = getattr(value, field.name)
        is_default = at_default or equals_default(field, canonicalize(setting))
        yield from _flatten(f"{place}.{field.name}", setting, is_default)


def _upgrade(name: str, text: str) -> str:
    """Return a stored value with the present name of a class that has been moved or renamed since."""
    if not name.endswith(".type") or not text.startswith('"'):
        return text
    return encode_json(resolve_target(json.loads(text)))
