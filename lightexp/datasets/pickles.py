"""Pickles as data: no class is looked up, nothing is called, and nothing is allocated because a header says so."""

from __future__ import annotations

import math
import pickletools
from dataclasses import dataclass
from typing import Any
from warnings import catch_warnings

import numpy as np
from numpy.typing import NDArray

_OPERATIONS = 1_000_000
"""That a pickle may consist of, so that what they make stays small; CIFAR-100's have some 250,000."""
_NAME = 100
"""Characters of the longest key or function's name."""
_MARK = object()


@dataclass
class Call:
    """What a pickle wants called, which is not done.

    Attributes:
        name: The function's or class's.
        arguments: Its arguments.
        state: What the result was then to be set to.
    """

    name: Any
    arguments: Any
    state: Any = None


def read(content: bytes) -> Any:
    """Reads a pickle of protocols 2 to 4 that holds dicts, lists, tuples, numbers, strings and what `Call` stands for.

    Raises:
        ValueError: If it is damaged, or holds anything else.
    """
    try:
        with catch_warnings(action="error", category=DeprecationWarning):  # at an escape in a name that is none
            return _run(content)
    except (IndexError, KeyError, TypeError, AttributeError, DeprecationWarning) as error:
        raise ValueError(f"it is cut off or altered ({type(error).__name__})") from None


def array(value: Any) -> NDArray[np.uint8]:
    """The array of bytes that a part of a pickle describes.

    Raises:
        ValueError: If it does not describe one.
    """
    match value:
        case Call(state=(1, tuple(shape), Call(arguments=(kind, *_)), fortran, raw)):
            counts = all(isinstance(n, int) and n > 0 for n in shape)
            raw = _bytes(raw)
            if counts and _bytes(kind) == b"u1" and isinstance(raw, bytes) and len(raw) == math.prod(shape):
                return np.frombuffer(raw, np.uint8).reshape(shape, order="F" if fortran else "C")
    raise ValueError("it holds something else than an array of bytes")


def _run(content: bytes) -> Any:
    """Runs the machine that a pickle is a program of."""
    stack: list[Any] = []
    memo: dict[Any, Any] = {}
    for count, (operation, argument, _) in enumerate(pickletools.genops(content)):
        if count == _OPERATIONS:
            raise ValueError(f"it has more than {_OPERATIONS} operations")
        match operation.name:
            case "BININT1" | "SHORT_BINSTRING" | "BININT" | "BININT2" | "BINSTRING" | "GLOBAL":
                stack.append(argument)
            case "BINUNICODE" | "SHORT_BINUNICODE" | "BINBYTES" | "SHORT_BINBYTES":
                stack.append(argument)
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "MARK":
                stack.append(_MARK)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[operation.name])
            case "EMPTY_DICT" | "EMPTY_LIST" | "EMPTY_TUPLE":
                stack.append({"D": dict, "L": list, "T": tuple}[operation.name[6]]())
            case "APPEND" | "APPENDS":
                values = [stack.pop()] if operation.name == "APPEND" else _marked(stack)
                stack[-1].extend(values)
            case "SETITEM" | "SETITEMS":
                values = [stack.pop(), stack.pop()][::-1] if operation.name == "SETITEM" else _marked(stack)
                stack[-1].update(zip(map(_name, values[::2]), values[1::2], strict=True))
            case "TUPLE":
                stack.append(tuple(_marked(stack)))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                size = int(operation.name[-1])
                stack[-size:] = [tuple(stack[-size:])]
            case "STACK_GLOBAL":
                stack[-2:] = [_name(stack[-1])]
            case "REDUCE":
                stack[-2:] = [Call(*stack[-2:])]
            case "BUILD":
                stack[-2].state = stack[-1]
                del stack[-1]
            case "STOP":
                return stack.pop()
            case "PROTO" | "FRAME":
                pass
            case other:
                raise ValueError(f"its operation {other} is none that plain data need")
    raise ValueError("it is cut off")


def _marked(stack: list[Any]) -> list[Any]:
    """Takes what was pushed since the last mark."""
    found = []
    while (value := stack.pop()) is not _MARK:
        found.append(value)
    return found[::-1]


def _bytes(value: Any) -> Any:
    """A string of bytes, however the Python that wrote it has put it; anything else as it is."""
    match value:
        case str(text) | Call(arguments=(str(text), _)):  # in protocol 2 Python 3 calls an encoder
            return text.encode("latin-1")
    return value


def _name(value: Any) -> str:
    text = _bytes(value)
    if not isinstance(text, bytes) or len(text) > _NAME:
        raise ValueError("it has a name that is none")
    return text.decode("ascii")
