"""Exceptions that lightexp raises on purpose, each with a one-line message for the user."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from lightexp.core.formatting import strip_controls
from lightexp.core.secrets import hide_secrets

INTERRUPTED = 130
"""Exit code of a command that the user has interrupted."""
_EMPTY_REASON = re.compile(r"(?<!shape) \(\)")  # the shape of a single number is written so too
_MAX_LENGTH, _END = 2_000, 400  # characters of a message, and of its end


class LightexpError(Exception):
    """Base class of the exceptions that lightexp raises on purpose.

    The message is one line without control characters, even if it quotes a name that has some, without secrets, and
    cut in the middle if that is very long.

    Attributes:
        exit_code: Exit code of the command that ends with the exception.
    """

    exit_code = 1

    def __init__(self, message: str) -> None:
        """Put the message on one line, without the colon or the brackets of a reason that is empty."""
        line = " ".join(strip_controls(hide_secrets(message)).split())
        line = _EMPTY_REASON.sub("", line).replace(": .", ".").removesuffix(":")
        if len(line) > _MAX_LENGTH:  # it quotes a value without end; what to do stands at its end
            line = f"{line[: _MAX_LENGTH - _END]} … {line[-_END:]}"
        super().__init__(line)


class BadInput(LightexpError):
    """The user's input cannot be used; the message says what is wrong, what was received and what to do."""

    exit_code = 2


class InvalidSetting(BadInput, ValueError):
    """A field of a settings class has the wrong type or is out of range, or two fields do not fit together.

    Attributes:
        place: Dotted place of the wrong value within the settings; empty where it is several fields.
        problem: What is wrong and what was received.
    """

    def __init__(self, message: str, place: str = "", problem: str = "") -> None:
        """Make the error; see the class."""
        super().__init__(message)
        self.place, self.problem = place, problem


class RunFailed(LightexpError):
    """The work could not be finished although the input was valid."""


def format_reason(error: BaseException) -> str:
    """Return an error's message; of an OSError without its number and path, which belong elsewhere in a sentence.

    Example:
        >>> format_reason(FileNotFoundError(2, "No such file or directory", "a.csv"))
        'No such file or directory'
    """
    return getattr(error, "strerror", None) or str(error)


def find_first_line(error: BaseException) -> str:
    """Return the first line of an error's message that is not blank, or the class of an error without a message."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__).strip()


def suggest_nearest(word: str, known: Iterable[str]) -> str:
    """Return "did you mean 'x'?" for the nearest of some words, or a list of all of them if none is near.

    Args:
        word: The misspelt word.
        known: The correct words.

    Example:
        >>> suggest_nearest("sparsty", ["sparsity", "epochs"])
        "did you mean 'sparsity'?"
    """
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{close[0]}'?"
    return "choose from: " + ", ".join(names) if names else "nothing is known by that name."
