"""Settings: the decorator that validates them, their annotated ranges, and their construction from config nodes.

A config node names its class by `_target_`; the other entries are the class's fields. Types and ranges come from the
annotations (pydantic in strict mode: `true` is not a number and `"3"` is not an integer), and are checked whenever an
instance is constructed, from a config file or from Python.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, field, fields, is_dataclass
from functools import cache, wraps
from typing import Annotated, Any, TypeVar, dataclass_transform, get_args, get_type_hints

from pydantic import BeforeValidator, ConfigDict, Field, PlainValidator, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass
from pydantic.dataclasses import is_pydantic_dataclass

from lightexp.core.errors import BadInput, InvalidSetting, suggest_nearest
from lightexp.core.moved import resolve_target
from lightexp.core.units import parse_bytes

T = TypeVar("T")

Fraction = Annotated[float, Field(ge=0, le=1)]
Sparsity = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Threads = Annotated[int, Field(ge=1, le=1024)]  # LiteRT aborts when asked for many more
Bytes = Annotated[int, BeforeValidator(parse_bytes), Field(ge=1)]
Index = Annotated[int, Field(ge=0)]

_STRICT = ConfigDict(strict=True, arbitrary_types_allowed=True)
_BUILT_ON_FIRST_USE = ConfigDict(extra="forbid", defer_build=True, **_STRICT)  # importing a class stays cheap


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def settings_dataclass(cls: type[T]) -> type[T]:
    """Make a class a frozen dataclass whose fields are validated whenever an instance is constructed.

    Subclasses are decorated in turn. `dataclasses.replace` and `dataclasses.field` work as usual; a `__post_init__` may
    raise ValueError for fields that do not fit together.

    Args:
        cls: A class with annotated fields.

    Returns:
        The class. Its constructor raises InvalidSetting, a BadInput and a ValueError, for the first wrong field.

    Example:
        >>> @settings_dataclass
        ... class Blur:
        ...     radius: Count = 1
        >>> Blur(radius=0)
        Traceback (most recent call last):
        ...
        lightexp.core.errors.InvalidSetting: Blur.radius: Input should be greater than or equal to 1. Received: 0.
    """
    settings: Any = pydantic_dataclass(frozen=True, config=_BUILT_ON_FIRST_USE)(cls)
    initialize = settings.__init__

    @wraps(initialize)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        try:
            initialize(self, *args, **kwargs)
        except ValidationError as error:
            place, problem = _describe(settings, error)
            prefix = "" if problem.startswith(cls.__name__) else f"{_join(cls.__name__, place)}: "
            raise InvalidSetting(f"{prefix}{problem}", place, problem) from None
        finally:
            settings.__init__ = __init__  # the first call builds the validator, and pydantic then sets its own again

    settings.__init__ = __init__
    return settings  # type: ignore[no-any-return]


def _describe(cls: Any, error: ValidationError) -> tuple[str, str]:
    """Return the place within the settings, empty for all of them, and one sentence or two on what is wrong there."""
    errors = error.errors()
    wrong = [e for e in errors if e["type"] != "missing"]
    if not wrong:
        absent = [".".join(map(str, e["loc"])) for e in errors]
        return "", f"{cls.__name__} needs more than it was given. Not given: {absent}."
    first = wrong[0]
    location = [str(part) for part in first["loc"]]
    if first["loc"] and isinstance(first["loc"][0], int):  # a positional argument
        positional = [f.name for f in fields(cls) if f.init and not f.kw_only]
        location[0] = positional[first["loc"][0]] if first["loc"][0] < len(positional) else location[0]
    place = ".".join(part for part in location if not _is_union_branch(part))
    message = first["msg"].removeprefix("Value error, ")
    if not place:  # raised by `__post_init__`
        return "", message
    if first["type"] == "unexpected_keyword_argument":
        return place, f"not a setting of {cls.__name__}: {suggest_nearest(place, _read_type_hints(cls))}"
    if first["type"] == "dataclass_exact_type":
        message = f"must be a mapping with _target_: {_find_class(cls, location[0], first['ctx']['class_name'])}"
    return place, f"{message}. Received: {first['input']!r}.{_explain_quotes(first)}"


def _explain_quotes(error: Any) -> str:
    """Return how to write a text that YAML and Hydra take for a number or truth value; empty for other errors."""
    if error["type"] != "string_type" or not isinstance(error["input"], (bool, int, float)):
        return ""
    return f""" Text that reads as a number needs quotes, in a shell two pairs: "'{error["input"]}'"."""


def _find_class(cls: Any, name: str, class_name: str) -> str:
    """Return the qualified name of the class that a field's annotation calls `class_name`."""
    hint = _read_type_hints(cls).get(name)
    for candidate in (hint, *get_args(hint)):
        if getattr(candidate, "__name__", None) == class_name:
            return f"{candidate.__module__}.{candidate.__qualname__}"
    return class_name


def build(node: Any, base: type[T], where: str, plugins: tuple[str, ...] = ()) -> T:
    """Build the object that a config node describes.

    Args:
        node: A mapping with `_target_` and the fields of that class; nested nodes are built first.
        base: The class that the target must derive from.
        where: Dotted place of the node in the config, for messages; empty at the top.
        plugins: Packages outside `lightexp` whose classes may be named. Defaults to none.

    Raises:
        BadInput: For an unknown or forbidden target, a misspelt field, a wrong type or a value out of range.

    Example:
        >>> from lightexp.core.protocols import Model
        >>> build({"_target_": "lightexp.models.lenet5.LeNet5", "width": 0.5}, Model, "model")
        LeNet5(width=0.5)
    """
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise BadInput(f"{where} must be a mapping with _target_. Received: {node!r}. Choose one of its group's files.")
    cls: Any = locate(str(node["_target_"]), where, plugins)
    if not issubclass(cls, base):
        raise BadInput(f"{where}._target_ must be a {base.__name__}. Received: {node['_target_']}.")
    values = {str(k): v for k, v in node.items() if k != "_target_"}
    for name, value in values.items():
        if isinstance(value, Mapping) and "_target_" in value and name in _read_type_hints(cls):
            values[name] = build(value, _find_nested_base(cls, name, where), f"{where}.{name}", plugins)
    instance: T = construct(cls, values, where)
    return instance


def _find_nested_base(cls: Any, name: str, where: str) -> type[Any]:
    """Return the class that a nested node must derive from, by its field's annotation; no other class is constructed.

    Raises:
        BadInput: If the field holds no settings class.
    """
    hint = _read_type_hints(cls)[name]
    for candidate in (hint, *get_args(hint)):
        if isinstance(candidate, type) and candidate.__module__ != "builtins":
            return candidate
    raise BadInput(f"{where}.{name} takes no _target_: {cls.__name__} has no class there.")


def construct(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """Construct a settings class, or a plain dataclass with the same checks.

    Args:
        cls: The class.
        values: Values of its fields, nested settings already built.
        where: Dotted place of the settings in the config, for messages; empty at the top.

    Raises:
        BadInput: For a misspelt, missing or wrong field; one line that begins with its place.
    """
    kind: Any = cls  # mypy considers type[T] unhashable
    hints = _read_type_hints(kind)
    for name in values:
        if name not in hints:
            raise BadInput(
                f"{_join(where, name)} is not a setting of {cls.__name__}: {suggest_nearest(str(name), hints)}"
            )
    if is_pydantic_dataclass(kind):
        instance: T = _construct_settings(kind, values, where)
    else:
        instance = _construct_plain(kind, values, where)
    return instance


def _construct_settings(cls: Any, values: Mapping[str, Any], where: str) -> Any:
    try:
        return cls(**values)
    except InvalidSetting as error:
        raise BadInput(f"{_join(where, error.place)}: {error.problem}") from None


def _construct_plain(cls: Any, values: Mapping[str, Any], where: str) -> Any:
    """Construct a plain dataclass, such as a plugin's, with each value validated against its annotation."""
    try:
        return cls(**{name: _make_adapter(cls, name).validate_python(value) for name, value in values.items()})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join([_join(where, error.title), *(p for p in map(str, first["loc"]) if not _is_union_branch(p))])
        message = first["msg"].removeprefix("Value error, ")
        raise BadInput(f"{place}: {message}. Received: {first['input']!r}.{_explain_quotes(first)}") from None
    except ValueError as error:
        raise BadInput(f"{where}: {error}") from None
    except TypeError as error:
        required = (f.name for f in fields(cls) if f.init and f.default is MISSING and f.default_factory is MISSING)
        if missing := [name for name in required if name not in values]:
            raise BadInput(f"{where}: {cls.__name__} needs more than it was given. Not given: {missing}.") from None
        raise BadInput(f"{where}: {error}.") from None


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where and name else where or name


def _is_union_branch(part: str) -> bool:
    """Check whether a part of pydantic's location names the branch of a union, which is not in the config."""
    return "[" in part or part in {"int", "float", "str", "bool"}


@cache
def _read_type_hints(cls: Any) -> dict[str, Any]:
    hints = get_type_hints(cls, include_extras=True)
    return {f.name: hints[f.name] for f in fields(cls) if f.init}


@cache
def _make_adapter(cls: Any, name: str) -> TypeAdapter[Any]:
    hint: Any = _read_type_hints(cls)[name]
    if is_dataclass(hint):  # already built; pydantic would validate it again as a model
        hint = Annotated[Any, PlainValidator(_require_instance(hint))]
    hint = Annotated[hint, Field(title=name)]
    return TypeAdapter(hint, config=ConfigDict(title=name, **_STRICT))


def _require_instance(cls: Any) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if not isinstance(value, cls):
            raise ValueError(f"must be a mapping with _target_: {cls.__module__}.{cls.__qualname__}")
        return value

    return check


def locate(target: str, where: str, plugins: tuple[str, ...] = ()) -> type[Any]:
    """Import the class that `target` names, if its package is lightexp's or one that the user has allowed.

    Args:
        target: Qualified name of a dataclass.
        where: Dotted place of the node in the config, for messages.
        plugins: Packages outside `lightexp` whose classes may be imported. Defaults to none.

    Raises:
        BadInput: If the package is not allowed or the class does not exist.
    """
    module, _, name = resolve_target(target).rpartition(".")
    package = target.partition(".")[0]
    if package not in ("lightexp", *plugins) or "__" in target:  # `__main__` would start the package's program
        raise BadInput(
            f"{where}._target_ names '{target}', but only lightexp's own classes may be named. "
            f"To allow your package, add plugins=[{package}]."
        )
    try:
        cls = getattr(importlib.import_module(module), name)
    except (Exception, SystemExit) as error:  # a user's module may raise anything while it is imported
        hint = " Install it, or put the folder that holds it on PYTHONPATH." if _is_absent(error, package) else ""
        reason = f"{type(error).__name__}: {error}"
        raise BadInput(f"{where}._target_ names '{target}', which cannot be imported ({reason}).{hint}") from None
    if not isinstance(cls, type) or not is_dataclass(cls):
        raise BadInput(f"{where}._target_ names '{target}', which is not a dataclass.")
    return cls


def _is_absent(error: BaseException, package: str) -> bool:
    return isinstance(error, ModuleNotFoundError) and error.name == package


def flatten(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted names and values of a nested mapping; an empty mapping counts as a value.

    Example:
        >>> dict(flatten({"model": {"width": 1.0}, "layers": {}}))
        {'model.width': 1.0, 'layers': {}}
    """
    for name, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
