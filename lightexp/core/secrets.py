"""Secrets: passwords in URIs, and values of environment variables that a config names as `${oc.env:NAME}`.

Records, configs, databases, logs and messages are made to be passed on. None of them holds a secret: a URI may not
hold one as plain text, and what a config takes from the environment is written as the interpolation that takes it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote_plus

_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^\s'\"<>`|/?#]*)([^\s'\"<>`|]*)")
_QUERY_VALUE = re.compile(r"([?&;#])([^=&;?#]+)=([^&;#]+)")
_SECRET_NAME = re.compile(
    r"(password|passwd|passphrase|pwd|token|secret|credentials?|signature|^sig|(?<!ssl)key)$", re.IGNORECASE
)
_TOKEN_SCHEMES = ("http", "https")  # whose user name alone may be a token
_ENVIRONMENT = re.compile(r"\$\{\s*oc\.env\s*:\s*([^\s,{}]+)")
_INTERPOLATION = re.compile(r"\$\{[^${}]*\}")
_MASK = "\ue000{}\ue001"  # characters of no text
_MASKS = re.compile("\ue000[0-9]+\ue001")
_SHORTEST = 4  # characters of a value that is hidden in messages; a shorter one is found in any text

_hidden: dict[str, str] = {}
"""Values that configs of this process have taken from the environment, with the interpolation that takes each."""


def find_secret(text: str) -> str | None:
    """Return where a URI in a text holds a secret as plain text, or None.

    Example:
        >>> find_secret("search.storage=postgresql://me@host/db?sslpassword=x")
        'sslpassword in its query'
        >>> find_secret("tracking.uri=http://${oc.env:TOKEN}@host") is None
        True
    """
    if "://" not in text:
        return None
    masked, _ = _mask_interpolations(text)
    return next((place for match in _URI.finditer(masked) for place in _find_in_uri(match)), None)


def find_secret_problem(name: str, text: str) -> str | None:
    """Return what is wrong with a setting whose text holds a secret, and what to do; None if it holds none."""
    if (place := find_secret(text)) is None:
        return None
    return (
        f"{name} holds {place}, which every record would show. Write '${{oc.env:NAME}}' in its place; for MLflow, set "
        "MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD; for PostgreSQL, set "
        "PGPASSWORD or write ~/.pgpass."
    )


def hide_secrets(text: str) -> str:
    """Return a text for users, without secrets in its URIs and without what configs took from the environment.

    Example:
        >>> hide_secrets("postgresql://me:secret@host/db?sslmode=require&password=secret")
        'postgresql://me:***@host/db?sslmode=require&password=***'
    """
    masked, interpolations = _mask_interpolations(text)
    hidden = _URI.sub(_hide_in_uri, masked)
    for number in reversed(range(len(interpolations))):  # the last ones hold the first
        hidden = hidden.replace(_MASK.format(number), interpolations[number])
    return _substitute(hidden, _hidden)


def remember_environment(raw: Any) -> None:
    """Hide the values that a config takes from the environment in each text that this process shows from now on.

    Places of files stay readable: their names are on the disk for all to see.

    Args:
        raw: A config of plain types, with interpolations.
    """
    _hidden.update(
        (value, text)
        for value, text in _read_environment(raw).items()
        if len(value) >= _SHORTEST and not os.path.exists(value)
    )


def keep_interpolations(raw: Any, resolved: Any) -> Any:
    """Return a resolved config with the interpolations in place of the texts that they take from the environment.

    Numbers and truth values stay: they are settings, which reports compare.

    Args:
        raw: A config of plain types, with interpolations.
        resolved: The same with all interpolations resolved.
    """
    return _keep(raw, resolved, _read_environment(raw))


def list_environment_names(raw: Any) -> list[str]:
    """Return the names of the environment variables that a config of plain types takes values from."""
    return sorted({name for text in _list_texts(raw) for name in _ENVIRONMENT.findall(text)})


def _keep(raw: Any, resolved: Any, environment: Mapping[str, str]) -> Any:
    if isinstance(resolved, Mapping):
        is_same = isinstance(raw, Mapping)  # else the node refers to another
        return {key: _keep(raw.get(key) if is_same else None, item, environment) for key, item in resolved.items()}
    if isinstance(resolved, list):
        items = raw if isinstance(raw, list) else [None] * len(resolved)
        return [_keep(*pair, environment) for pair in zip(items, resolved, strict=True)]
    if not isinstance(resolved, str) or (isinstance(raw, str) and "${" not in raw):
        return resolved
    return raw if isinstance(raw, str) and _ENVIRONMENT.search(raw) else _substitute(resolved, environment)


def _read_environment(raw: Any) -> dict[str, str]:
    """Return the values that a config takes from the environment, with the interpolation that takes each."""
    return {value: f"${{oc.env:{name}}}" for name in list_environment_names(raw) if (value := os.environ.get(name))}


def _list_texts(raw: Any) -> Iterator[str]:
    if isinstance(raw, str):
        yield raw
    elif isinstance(raw, Mapping | list):
        for item in raw.values() if isinstance(raw, Mapping) else raw:
            yield from _list_texts(item)


def _substitute(text: str, replacements: Mapping[str, str]) -> str:
    """Replace the longest values first, and only where they are not part of a longer word."""
    present = sorted((value for value in replacements if value in text), key=len, reverse=True)
    if not present:
        return text
    pattern = "|".join(map(re.escape, present))
    return re.sub(rf"(?<!\w)({pattern})(?!\w)", lambda match: replacements[match[0]], text)


def _mask_interpolations(text: str) -> tuple[str, list[str]]:
    """Return a text with a mask in place of each interpolation, and the interpolations by their masks' numbers."""
    interpolations: list[str] = []

    def mask(match: re.Match[str]) -> str:
        interpolations.append(match[0])
        return _MASK.format(len(interpolations) - 1)

    count = 1
    while count:  # an interpolation may hold others
        text, count = _INTERPOLATION.subn(mask, text)
    return text, interpolations


def _is_plain(value: str) -> bool:
    """Check whether a value holds more than interpolations."""
    return bool(_MASKS.sub("", value))


def _find_in_uri(match: re.Match[str]) -> Iterator[str]:
    """Yield where a URI holds secrets."""
    scheme, authority, rest = match.groups()
    user, _, password = authority.rpartition("@")[0].partition(":")
    if _is_plain(password):
        yield "the password of its user"
    if _is_plain(user) and scheme.lower() in _TOKEN_SCHEMES:
        yield "its user name, which may be a token"
    for _, name, value in _QUERY_VALUE.findall(rest):
        if _is_plain(value) and _SECRET_NAME.search(unquote_plus(name)):
            yield f"{name} in its query"


def _hide_in_uri(match: re.Match[str]) -> str:
    """Return a URI with its secrets replaced by asterisks."""
    scheme, authority, rest = match.groups()
    user_info, at, host = authority.rpartition("@")
    user, colon, password = user_info.partition(":")
    if _is_plain(user) and scheme.lower() in _TOKEN_SCHEMES:
        user = "***"
    authority = f"{user}{colon}{'***' if _is_plain(password) else password}{at}{host}"
    return f"{scheme}://{authority}{_QUERY_VALUE.sub(_hide_query_value, rest)}"


def _hide_query_value(match: re.Match[str]) -> str:
    is_secret = _is_plain(match[3]) and _SECRET_NAME.search(unquote_plus(match[2]))
    return f"{match[1]}{match[2]}=***" if is_secret else match[0]
