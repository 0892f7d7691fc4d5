"""What a mirror of runs and studies is, and the settings that open one. A mirror never stops a run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from lightexp.core.config import build, settings_dataclass
from lightexp.core.json_text import encode_json
from lightexp.core.record import Record
from lightexp.tracking.study_payload import StudyPayload

NOT_ASKED_FOR = {"missing": "tracking=none"}
"""`record.mlflow` of a run that is mirrored nowhere."""


@dataclass(frozen=True)
class SyncResult:
    """What a mirror shows of a run after it was synchronized.

    Attributes:
        place: For `record.mlflow`: `uri`, `experiment` and `run_id`; under `missing`, why something is not shown.
        changed: Whether anything had to be uploaded.
        is_deleted: Whether the mirror's user has deleted the run there, so that it stays as it is.
    """

    place: dict[str, str]
    changed: bool = False
    is_deleted: bool = False

    def note_in(self, record: Record) -> bool:
        """Enter the place in `record.mlflow`, and return whether that changed the record.

        A record that says it is shown in another experiment or at another address keeps saying so: this was a copy.
        """
        if "uri" not in self.place:
            place = {**record.mlflow, **self.place}
        elif "run_id" in record.mlflow and not is_shown_at(record, self.place):
            return False
        else:
            place = self.place
        if place == record.mlflow:
            return False
        record.mlflow = dict(place)
        return True


def is_shown_at(record: Record, place: dict[str, str]) -> bool:
    """Return whether a record says that its run is shown in the experiment of a place."""
    return all(record.mlflow.get(name) == place[name] for name in ("uri", "experiment"))


class Mirror(ABC):
    """A place that shows runs and studies, kept open over many of them.

    Its methods raise nothing when the place cannot be reached or refuses something: they tell the user in one line,
    and return the reason as `missing`.
    """

    @abstractmethod
    def sync(self, folder: Path, create: bool = True) -> SyncResult:
        """Bring what is shown of a run to the state of the `record.json` in its folder.

        A second call changes nothing. Of a run that has ended, metrics and files are shown as well.

        Args:
            folder: The run's folder. Nothing is written to it.
            create: Whether to show a run that is not shown yet. Defaults to True. Otherwise the result's place is empty
                where nothing is shown of the run; a run whose record names another place stays as it is, and `missing`
                says so.

        Raises:
            BadInput: If the folder holds no sound record.
        """

    @abstractmethod
    def sync_study(self, study: StudyPayload) -> dict[str, str]:
        """Bring what is shown of a study to its present state, and return where it is shown, as `record.mlflow` has it.

        A second call changes nothing.
        """

    @abstractmethod
    def close_running(self) -> None:
        """Show the runs and studies that this mirror shows as running as killed: their command has died."""


class Tracking(ABC):
    """Settings of a mirror, one kind for each place that can show runs.

    Attributes:
        is_enabled: Whether records are mirrored at all.
    """

    is_enabled: ClassVar[bool] = True

    @abstractmethod
    def open_mirror(self, outputs: Path, say: Callable[[str], None]) -> Mirror:
        """Make the mirror, at no cost: nothing is imported or reached before its first use.

        Args:
            outputs: The folder of all outputs, which need not exist.
            say: Takes each line for the user.
        """


@settings_dataclass
class NoTracking(Tracking):
    """Mirror nothing."""

    is_enabled = False

    def open_mirror(self, outputs: Path, say: Callable[[str], None]) -> Mirror:
        """Make a mirror that only notes in each record that it was not asked for."""
        return _NoMirror()


class _NoMirror(Mirror):
    def sync(self, folder: Path, create: bool = True) -> SyncResult:
        return SyncResult(NOT_ASKED_FOR)

    def sync_study(self, study: StudyPayload) -> dict[str, str]:
        return dict(NOT_ASKED_FOR)

    def close_running(self) -> None:
        pass


def asks_for_mirror(tracking: Any) -> bool:
    """Return whether a config node `tracking`, perhaps of somebody else's record, asks for any mirror at all."""
    return isinstance(tracking, dict) and tracking.get("_target_") != f"{NoTracking.__module__}.{NoTracking.__name__}"


@dataclass(frozen=True)
class MirrorSettings:
    """All that is needed to open a mirror, as JSON types.

    Attributes:
        tracking: The config node of a `Tracking`.
        plugins: The user's packages that the node may name.
        outputs: The folder of all outputs.
    """

    tracking: dict[str, Any]
    plugins: list[str]
    outputs: str

    @property
    def key(self) -> str:
        """The same text for the same settings."""
        return encode_json([self.tracking, self.plugins, self.outputs], sort_keys=True)

    def build(self) -> Tracking:
        """Build the `Tracking`, from a plugin's class if the node names one."""
        return build(self.tracking, Tracking, "tracking", tuple(self.plugins))  # type: ignore[type-abstract]

    def open_mirror(self, say: Callable[[str], None]) -> Mirror:
        """Build the `Tracking` and open its mirror; `say` takes each line for the user."""
        return self.build().open_mirror(Path(self.outputs), say)
