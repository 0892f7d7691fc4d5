"""What all kinds of faults share: their attempts, and how a command in this process is judged."""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from hydra.core.global_hydra import GlobalHydra

from lightexp.cli.main import main
from lightexp.cli.printing import print_error
from lightexp.core.errors import BadInput
from tests.special_files import deadline

HANG_S = 60.0  # a command of a second, on a busy machine, has ended by then
_INTERRUPTED = 130
MAX_LINE = 2_600  # characters of an error: a message, and the path that it is about

Attempt = Callable[[random.Random], None]
"""Makes one fault, which the generator decides, and raises `Lost` or any other error if something is lost."""


class Lost(Exception):
    """Something that should have been kept or refused was not; the message says what."""


@dataclass(frozen=True)
class Kind:
    """A kind of fault.

    Attributes:
        name: Its name, also for `--only`.
        tries: Number of attempts; `--long` makes many more.
        prepare: Takes a folder, and returns a context in which attempts can be made.
        is_short: Whether the first attempt takes a second or so, its preparation included. Defaults to True.
    """

    name: str
    tries: int
    prepare: Callable[[Path], AbstractContextManager[Attempt]]
    is_short: bool = True


def run_command(*argv: str, lines: int = 1) -> int:
    """Run a command in this process; see `call`."""
    return call(lambda: main(list(argv)), lines)


def call(function: Callable[[], object], lines: int = 1) -> int:
    """Call a function as a command is called, and return its exit code.

    Args:
        function: Returns an exit code, or anything else if it succeeds.
        lines: How many lines of errors it may print.

    Raises:
        Lost: If it ends in another way than with exit code 0, 1 or 2 and few lines of errors.
        KeyboardInterrupt: If it was interrupted, as the benchmark then is.
    """
    handlers = {
        number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)
    }  # commands set their own
    with tempfile.TemporaryFile() as file:
        with _redirect_output(file.fileno()), deadline(HANG_S):
            try:
                returned = function()
            except SystemExit as error:
                returned = error.code
            except BadInput as error:
                returned = error.exit_code
                print_error(error)
            finally:
                GlobalHydra.instance().clear()
                for number, handler in handlers.items():
                    signal.signal(number, handler)
        file.seek(0)
        code = returned if isinstance(returned, int) else 0
        if code == _INTERRUPTED:
            raise KeyboardInterrupt
        judge(code, file.read().decode(errors="replace"), lines)
    return code


def require_accepted(code: int) -> None:
    """Check that a sound file is accepted, of which mutants are to be made: else their refusal says nothing."""
    if code:
        raise AssertionError(f"a sound file gives exit code {code}")


def judge(code: int, errors: str, lines: int = 1) -> None:
    """Raise `Lost` for an exit code or errors that a command must not end with."""
    count = len(errors.splitlines())
    if code not in (0, 1, 2) or "traceback" in errors.lower() or count > lines or len(errors) > lines * MAX_LINE:
        raise Lost(f"exit code {code}, {count} lines of errors: {errors.strip()[-300:]!r}")


def damage(content: bytes, rng: random.Random) -> bytes:
    """Return a file's bytes cut off, extended or with some bytes changed; never the same bytes."""
    altered = bytearray(content)
    form = rng.choice(["cut", "extend", "alter", "alter", "alter", "move"])
    if form == "cut":
        return content[: rng.randrange(len(content))]
    if form == "extend":
        return content + rng.randbytes(rng.randrange(1, 9))
    if form == "move":  # a block appears again at another place
        start, target, length = (rng.randrange(len(content)) for _ in range(3))
        altered[target : target + length] = content[start : start + length]
    if bytes(altered) == content:
        for position in rng.sample(range(len(content)), min(len(content), rng.choice([1, 1, 8]))):
            altered[position] ^= rng.randrange(1, 256)
    return bytes(altered)


@contextmanager
def _redirect_output(errors: int) -> Iterator[None]:
    """Send the output of this process nowhere and its errors to a file, also those of libraries in C."""
    saved = [os.dup(number) for number in (1, 2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    _replace_output(nowhere, errors)
    try:
        yield
    finally:
        _replace_output(*saved)
        for descriptor in (nowhere, *saved):
            os.close(descriptor)


def _replace_output(*descriptors: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    for number, descriptor in enumerate(descriptors, start=1):
        os.dup2(descriptor, number)
