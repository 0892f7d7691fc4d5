"""The two ways in which lightexp stops, each with one clear line for the user."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LightexpError(Exception):
    """Base of all errors that lightexp raises on purpose; `exit_code` is the command's.

    Its message is one line, whatever a file's or a setting's name would make of it.
    """

    exit_code = 1

    def __init__(self, words: str) -> None:
        """Puts `words` on one line."""
        super().__init__(" ".join(words.split()))


class BadInput(LightexpError):
    """What the user gave cannot be used: the message says what, what was received, what to do."""

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
    """The input was sound but the work could not be finished."""


def suggest_nearest(word: str, known: Iterable[str]) -> str:
    """Returns the words ", did you mean `x`?" for the nearest of `known`, else lists them.

    Args:
        word: The misspelt word.
        known: The words that would have been right.
    """
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{close[0]}'?"
    return "choose from: " + ", ".join(names) if names else "nothing is known by that name."
