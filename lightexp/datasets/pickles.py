"""Read CIFAR's pickles without running code: a restricted unpickler that imports and calls nothing."""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from dataclasses import dataclass
from typing import Any
from warnings import catch_warnings

import numpy as np
from numpy.typing import NDArray

_MAX_OPERATIONS = 1_000_000  # bounds the memory that a pickle can ask for; CIFAR-100's has some 250,000
_MAX_KEY = 100  # characters
_OPERATIONS = frozenset(
    [
        *("PROTO", "FRAME", "MARK", "STOP", "BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET", "LONG_BINGET"),
        *("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "SHORT_BINSTRING", "BINSTRING"),
        *("BINUNICODE", "SHORT_BINUNICODE", "BINBYTES", "SHORT_BINBYTES"),
        *("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
        *("APPEND", "APPENDS", "SETITEM", "SETITEMS", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD"),
    ]
)
_GLOBALS = frozenset(
    {
        ("numpy.core.multiarray", "_reconstruct"),  # before NumPy 2
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("_codecs", "encode"),  # of bytes, in protocol 2 as Python 3 writes it
    }
)


@dataclass(slots=True, eq=False)
class RecordedCall:
    """A function or class that a pickle names, and what it would be called with; it is never called.

    Attributes:
        name: Name of the function or class.
        arguments: The call's arguments; None if it is named without being called.
        state: What the pickle sets the result's state to.
    """

    name: str
    arguments: tuple[Any, ...] | None = None
    state: Any = None

    def __call__(self, *arguments: Any) -> RecordedCall:
        """Record a call."""
        return RecordedCall(self.name, arguments)

    def __setstate__(self, state: Any) -> None:
        """Record the state of a call's result."""
        self.state = state


class _RecordingUnpickler(pickle.Unpickler):
    """Unpickler that admits the names in `_GLOBALS` only, and replaces each by a `RecordedCall`."""

    def find_class(self, module: str, name: str) -> RecordedCall:
        """Return a stand-in for a function or class; nothing is imported."""
        if (module, name) not in _GLOBALS:
            raise ValueError(f"it names {f'{module}.{name}'[:_MAX_KEY]!a}, which plain data do not need")
        return RecordedCall(name)


def read_pickle(content: bytes) -> Any:
    """Read a pickle of protocols 2 to 4 that holds dicts, lists, tuples, numbers, strings and arrays.

    Args:
        content: The pickle's bytes.

    Returns:
        The pickled value, with text keys if it is a dict; arrays are to be decoded by `array`.

    Raises:
        ValueError: If it is damaged, or holds anything else.
    """
    # An invalid escape in a name is a DeprecationWarning of the standard library.
    with catch_warnings(action="error", category=DeprecationWarning):
        try:
            _check_operations(content)
            value = _RecordingUnpickler(io.BytesIO(content), encoding="latin-1").load()
            return {_to_key(key): item for key, item in value.items()} if isinstance(value, dict) else value
        except ValueError:
            raise
        # the standard library promises no closed list of errors for damaged pickles
        except Exception as error:
            raise ValueError(f"it is cut off or altered ({type(error).__name__})") from None


def decode_array(value: Any) -> NDArray[np.uint8]:
    """Decode an array of bytes.

    Args:
        value: A part of what `read` returned.

    Returns:
        A read-only array of the pickled shape.

    Raises:
        ValueError: If the value is something else.
    """
    match value:
        case RecordedCall("_reconstruct", tuple(), (1, tuple(shape), RecordedCall("dtype", (kind, *_)), fortran, raw)):
            is_valid = all(isinstance(length, int) and length > 0 for length in shape)
            pixels = _to_bytes(raw)
            if is_valid and _to_bytes(kind) == b"u1" and isinstance(pixels, bytes) and len(pixels) == math.prod(shape):
                return np.frombuffer(pixels, np.uint8).reshape(shape, order="F" if fortran else "C")
    raise ValueError("it holds something else than an array of bytes")


def _check_operations(content: bytes) -> None:
    """Check a pickle's operations before it is loaded, so that memory is bounded."""
    for count, (operation, argument, _) in enumerate(pickletools.genops(content)):
        if count == _MAX_OPERATIONS:
            raise ValueError(f"it has more than {_MAX_OPERATIONS} operations")
        if operation.name not in _OPERATIONS:
            raise ValueError(f"its operation {operation.name} is none that plain data need")
        # The unpickler allocates a table as long as the largest index.
        if operation.name in ("BINPUT", "LONG_BINPUT") and (argument or 0) > count:
            raise ValueError(f"it stores its value {count} at index {argument}")


def _to_bytes(value: Any) -> Any:
    """Return a byte string, in whichever of three ways it was pickled; any other value unchanged."""
    match value:
        case str(text) | RecordedCall("encode", (str(text), *_)):
            return text.encode("latin-1")
    return value


def _to_key(value: Any) -> str:
    text = value.arguments[0] if isinstance(value, RecordedCall) and value.arguments else value
    if not isinstance(text, str | bytes) or len(text) > _MAX_KEY:
        raise ValueError("it has a key that is not a short name")
    return text if isinstance(text, str) else text.decode("ascii")
