"""What a settings class says of its fields: types and ranges of its annotations, texts of its docstrings."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass, fields, is_dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic.fields import FieldInfo

_SECTION = re.compile(r"^(Attributes|Args|Returns|Raises|Example|Examples):$", re.MULTILINE)
_ATTRIBUTE = re.compile(r"^ {4}(\w+): (.*(?:\n(?: {5,}.*|[ \t]*$))*)", re.MULTILINE)
_DEFAULT = re.compile(r"\s*Defaults to (?:[^.:]|\.\d)+\.$")  # one with a colon says more than the value
_WORDS = {"None": "null", "True": "true", "False": "false"}
_TYPES = {int: "whole number", float: "number", str: "text", bool: "true or false", Any: "any value"}
_PLURALS = {"whole number": "whole numbers", "number": "numbers", "text": "texts"}
_BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


@dataclass(frozen=True)
class FieldType:
    """Type and range of a setting, in words.

    Attributes:
        name: In words, such as `whole number or null`.
        bounds: Its range, such as `≥ 0, < 1`; empty without one.
    """

    name: str
    bounds: str = ""


def read_docstring(cls: type[Any]) -> str:
    """Return what a class's docstring says before its first section, one line per paragraph."""
    text = _SECTION.split(inspect.cleandoc(cls.__doc__ or ""))[0].strip()
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def read_attributes(cls: type[Any]) -> dict[str, str]:
    """Return the text of each attribute in the docstrings of a class and its bases, without the plain default.

    Example:
        >>> from lightexp.stages.prune import Prune
        >>> read_attributes(Prune)["begin_step"]
        'Start in steps, instead of `begin`.'
    """
    texts: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        parts = _SECTION.split(inspect.cleandoc(base.__dict__.get("__doc__") or ""))
        for heading, content in zip(parts[1::2], parts[2::2], strict=True):
            if heading == "Attributes":
                texts |= {name: _clean(text) for name, text in _ATTRIBUTE.findall(content)}
    return texts


def _clean(text: str) -> str:
    """Put a text on one line, with the values of Python as YAML writes them."""
    text = _DEFAULT.sub("", " ".join(text.split()))
    return re.sub(r"\b(None|True|False)\b", lambda match: _WORDS[match[1]], text)


def read_field_types(cls: type[Any]) -> dict[str, Any]:
    """Return the annotation of each field that a constructor takes."""
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in fields(cls) if field.init}


def describe_type(hint: Any) -> FieldType:
    """Describe an annotation in words.

    Example:
        >>> from lightexp.core.config import Count, Sparsity
        >>> describe_type(dict[str, Sparsity])
        FieldType(name='mapping to number', bounds='≥ 0, < 1')
        >>> describe_type(Count | None)
        FieldType(name='whole number or null', bounds='≥ 1')
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        inner = describe_type(arguments[0])
        bounds = [text for part in arguments[1:] if isinstance(part, FieldInfo) for text in _read_bounds(part)]
        return FieldType(inner.name, ", ".join([*filter(None, [inner.bounds]), *bounds]))
    if origin is Literal:
        return FieldType(", ".join(map(_write, arguments)))
    if origin in (Union, UnionType):
        branches = [describe_type(argument) for argument in sorted(arguments, key=lambda one: one is NoneType)]
        ranges = dict.fromkeys(branch.bounds for branch in branches if branch.bounds)
        return FieldType(" or ".join(branch.name for branch in branches), "; ".join(ranges))
    if origin in (list, tuple):
        inner = describe_type(arguments[0])
        return FieldType(f"list of {_PLURALS.get(inner.name, inner.name)}", inner.bounds)
    if origin is dict:
        inner = describe_type(arguments[1])
        return FieldType(f"mapping to {inner.name}", inner.bounds)
    if hint is NoneType:
        return FieldType("null")
    if isinstance(hint, type) and is_dataclass(hint):
        return FieldType(hint.__name__)
    return FieldType(_TYPES.get(hint, getattr(hint, "__name__", str(hint))))


def _read_bounds(info: FieldInfo) -> list[str]:
    """Return the bounds in a field's metadata, each as a sign and a number."""
    values = ((sign, getattr(part, name, None)) for part in info.metadata for name, sign in _BOUNDS.items())
    return [f"{sign} {value:g}" for sign, value in values if value is not None]


def _write(value: Any) -> str:
    return "null" if value is None else str(value)
