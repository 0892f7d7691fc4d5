"""Where records are mirrored. A mirror never stops a run: what it cannot do it says in one line."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from lightexp.core.config import settings_dataclass
from lightexp.core.record import Record
from lightexp.tracking.study_payload import StudyPayload


class Mirror(ABC):
    """A place that shows runs, kept open over one run or many.

    Its methods raise nothing when the place cannot be reached or refuses something: they say so, and leave the reason
    under `missing` in `record.mlflow`. They change nothing else of the record; writing `record.json` is the caller's.
    """

    @abstractmethod
    def start(self, record: Record) -> None:
        """Shows a run as running, and notes in `record.mlflow` where."""

    @abstractmethod
    def end(self, record: Record, folder: Path) -> None:
        """Shows all of a run that has ended, with the files in its folder.

        `record.json` is one of these, so it should have been written. A run that was never shown as running is shown
        now, and one that was shown already comes out the same.
        """

    @abstractmethod
    def close(self, record: Record) -> None:
        """Shows that a run was killed, if it is shown as running."""

    @abstractmethod
    def study(self, study: StudyPayload) -> dict[str, str]:
        """Shows a study and its trials, and returns where, as it would stand in `record.mlflow`."""

    @abstractmethod
    def left(self) -> None:
        """Shows that the studies that are shown as running were left: the command has died."""


class Tracking(ABC):
    """The settings of a mirror.

    Attributes:
        is_enabled: Whether records are mirrored at all.
    """

    is_enabled: ClassVar[bool] = True

    @abstractmethod
    def mirror(self, outputs: Path, say: Callable[[str], None]) -> Mirror:
        """Makes the mirror, at no cost: nothing is imported or reached before its first use.

        Args:
            outputs: The folder of all outputs, which need not exist.
            say: Takes each line for the user.
        """


@settings_dataclass
class NoTracking(Tracking):
    """Mirrors nothing."""

    is_enabled = False

    def mirror(self, outputs: Path, say: Callable[[str], None]) -> Mirror:
        """Makes a mirror that notes in each record that it was not asked for."""
        return _NoMirror()


class _NoMirror(Mirror):
    def start(self, record: Record) -> None:
        record.mlflow = {"missing": "tracking=none"}

    def end(self, record: Record, folder: Path) -> None:
        self.start(record)

    def close(self, record: Record) -> None:
        pass

    def study(self, study: StudyPayload) -> dict[str, str]:
        return {"missing": "tracking=none"}

    def left(self) -> None:
        pass
