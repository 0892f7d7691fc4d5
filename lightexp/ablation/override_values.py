"""Values as Hydra's override grammar writes them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_UNQUOTED = re.compile(r"[A-Za-z_][\w./-]*")
_KEYWORDS = ("null", "true", "false", "nan", "inf")


def format_override_value(value: Any) -> str:
    """Return a value as an override has it on its right side, so that Hydra reads the same value.

    Args:
        value: A value of JSON types.

    Example:
        >>> format_override_value([None, True, 0.5, "a b", "a/b"])
        "[null,true,0.5,'a b',a/b]"
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(format_override_value, value))}]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{format_override_value(item)}" for key, item in value.items()) + "}"
    if not isinstance(value, str):
        return str(value)
    if _UNQUOTED.fullmatch(value) and value.lower() not in _KEYWORDS:
        return value
    return "'" + re.sub(r"(\\*)('|$)", _escape, value) + "'"


def _escape(match: re.Match[str]) -> str:
    """Double backslashes in front of a quotation mark, the only place where Hydra reads them as escapes."""
    backslashes, quotation_mark = match.groups()
    return backslashes * 2 + ("\\'" if quotation_mark else "")
