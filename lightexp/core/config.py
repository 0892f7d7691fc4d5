"""From plain config nodes to checked dataclasses.

A node names its class by `_target_`; the rest are the class's fields. Types and ranges come from the annotations
(pydantic, strict: `true` is no number and `"3"` is no integer), so that a class states its own limits once.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Annotated, Any, TypeVar, get_type_hints

from pydantic import ConfigDict, Field, PlainValidator, TypeAdapter, ValidationError

from lightexp.core.errors import BadInput, suggest_nearest

T = TypeVar("T")

Fraction = Annotated[float, Field(ge=0, le=1)]
Sparsity = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Threads = Annotated[int, Field(ge=1, le=1024)]  # of many more, LiteRT dies
Index = Annotated[int, Field(ge=0)]


def build(node: Any, base: type[T], where: str, plugins: tuple[str, ...] = ()) -> T:
    """Builds the object that a config node describes.

    Args:
        node: A mapping with `_target_` and the target's fields; nested nodes are built first.
        base: The class that the target must derive from.
        where: The node's dotted place in the config, for messages; empty at the top.
        plugins: Packages beside `lightexp` whose classes may be named.

    Raises:
        BadInput: For an unknown or forbidden target, a misspelt field, a wrong type or a value out of range.
    """
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise BadInput(f"{where} must be a mapping with _target_. Received: {node!r}. Choose one of its group's files.")
    values = {
        str(k): build(v, object, f"{where}.{k}", plugins) if isinstance(v, Mapping) and "_target_" in v else v
        for k, v in node.items()
        if k != "_target_"
    }
    cls = locate(str(node["_target_"]), where, plugins)
    if not issubclass(cls, base):
        raise BadInput(f"{where}._target_ must be a {base.__name__}. Received: {node['_target_']}.")
    return construct(cls, values, where)


def construct(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """Makes `cls` from `values`, turning every complaint into one line that begins with the field's place.

    Raises:
        BadInput: As `build`.
    """
    kind: Any = cls  # mypy takes a type[T] for unhashable
    hints = _hints(kind)
    for name in values:
        if name not in hints:
            raise BadInput(
                f"{_place(where, name)} is not a setting of {cls.__name__}: {suggest_nearest(str(name), hints)}"
            )
    try:
        return cls(**{name: _adapter(kind, name).validate_python(value) for name, value in values.items()})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join([_place(where, error.title), *(p for p in map(str, first["loc"]) if not _names_type(p))])
        words = first["msg"].removeprefix("Value error, ")
        raise BadInput(f"{place}: {words}. Received: {first['input']!r}.") from None
    except ValueError as error:
        raise BadInput(f"{where}: {error}") from None
    except TypeError as error:
        needed = (f.name for f in fields(kind) if f.init and f.default is MISSING and f.default_factory is MISSING)
        if missing := [name for name in needed if name not in values]:
            raise BadInput(f"{where}: {cls.__name__} needs more than it was given. Not given: {missing}.") from None
        raise BadInput(f"{where}: {error}.") from None


def _place(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _names_type(part: str) -> bool:
    """Says whether a piece of pydantic's location names a union's branch, which no user wrote."""
    return "[" in part or part in {"int", "float", "str", "bool"}


@cache
def _hints(cls: Any) -> dict[str, Any]:
    hints = get_type_hints(cls, include_extras=True)
    return {f.name: hints[f.name] for f in fields(cls) if f.init}


@cache
def _adapter(cls: Any, name: str) -> TypeAdapter[Any]:
    hint: Any = _hints(cls)[name]
    if is_dataclass(hint):  # built already; pydantic would take it for a model of its own
        hint = Annotated[Any, PlainValidator(_instance(hint))]
    hint = Annotated[hint, Field(title=name)]
    config = ConfigDict(strict=True, arbitrary_types_allowed=True, title=name)
    return TypeAdapter(hint, config=config)


def _instance(cls: Any) -> Callable[[Any], Any]:
    def checked(value: Any) -> Any:
        if not isinstance(value, cls):
            raise ValueError(f"must be a mapping with _target_: {cls.__module__}.{cls.__qualname__}")
        return value

    return checked


def locate(target: str, where: str, plugins: tuple[str, ...] = ()) -> type[Any]:
    """Imports the class that `target` names, if its package is lightexp's or one the user allowed.

    Raises:
        BadInput: If the package is not allowed or the class is not there.
    """
    module, _, name = target.rpartition(".")
    package = target.partition(".")[0]
    if package not in ("lightexp", *plugins):
        raise BadInput(
            f"{where}._target_ names '{target}', but only lightexp's own classes may be named. "
            f"To allow your package, add plugins=[{package}]."
        )
    try:
        found = getattr(importlib.import_module(module), name)
    except (Exception, SystemExit) as error:  # whatever a user's module raises while it is imported
        hint = " Install it, or put the folder that holds it on PYTHONPATH." if _absent(error, package) else ""
        why = f"{type(error).__name__}: {error}"
        raise BadInput(f"{where}._target_ names '{target}', which cannot be imported ({why}).{hint}") from None
    if not isinstance(found, type) or not is_dataclass(found):
        raise BadInput(f"{where}._target_ names '{target}', which is not a dataclass.")
    return found


def _absent(error: BaseException, package: str) -> bool:
    return isinstance(error, ModuleNotFoundError) and error.name == package


def flatten(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """A nested mapping as dotted names and values; an empty one is a value."""
    for name, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
