"""Outages of a service, which are waited for and reported once."""

from __future__ import annotations

import time
from collections.abc import Callable

from lightexp.core.errors import find_first_line

_RETRY_S = 1.0


class OutageReporter:
    """Waits between two tries of a service that does not answer, and reports its outage once."""

    def __init__(self, service: str, report: Callable[[str], None]) -> None:
        """Report nothing yet.

        Args:
            service: The service's name, at the start of a sentence.
            report: Called with each line for the user.
        """
        self._service, self._report = service, report
        self._is_out = False

    def wait(self, error: BaseException) -> None:
        """Report an outage, unless it has been reported, and sleep for a second."""
        if not self._is_out:
            self._report(f"{self._service} has gone away ({find_first_line(error)}). Waiting for it.")
        self._is_out = True
        time.sleep(_RETRY_S)

    def end(self) -> None:
        """Report that the service answers, if an outage has been reported."""
        if self._is_out:
            self._is_out = False
            self._report(f"{self._service} is back.")
