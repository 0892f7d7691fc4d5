"""The mirror in MLflow: its settings, and how it reaches MLflow's store without ever stopping a run."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from lightexp.core.config import construct, settings_dataclass
from lightexp.core.errors import format_reason
from lightexp.core.moved import resolve_target
from lightexp.core.record import Record, read_run
from lightexp.core.records import RUNS
from lightexp.tracking import mlflow_payload, stores
from lightexp.tracking.client import MlflowExperiment, MlflowRun, StoreTimeout, TrackingClient, UnusableAnswer
from lightexp.tracking.mirror import Mirror, MirrorSettings, SyncResult, Tracking, is_shown_at
from lightexp.tracking.run_uploader import RunUploader, UploadContent
from lightexp.tracking.study_payload import StudyPayload
from lightexp.tracking.study_uploader import StudyUploader, close_run
from lightexp.tracking.upload_notes import UploadNotes

_REFUSED_HOST = "Invalid Host header"  # MLflow's answer to names that it was not started with
_PROBE = {"timeout": 4, "retries": 0}
_WRITE = {"timeout": 30, "retries": 2}
_PROBE_PAUSE_S = 30.0  # from an answer to the next probe, which costs a request


@settings_dataclass
class Mlflow(Tracking):
    """Mirror records in MLflow.

    Attributes:
        uri: Tracking URI. Defaults to None: a SQLite file, `mlflow.db`, in the outputs folder.
        experiment: Name of the experiment, which is created if needed. Defaults to `lightexp`.
        timeout_s: Seconds after which an exchange with a server is given up, however steadily its answer trickles in;
            the server then counts as down. A file to upload is one exchange. Defaults to 60.
        metrics: Which metrics a run gets in MLflow: the `main` ones that people compare, at most 30, or `all`, of which
            there are hundreds. The artifact `metrics.json` holds all of them. Defaults to `main`.
        model: Whether a run's `.tflite` is logged as an MLflow model. Defaults to True.
    """

    uri: str | None = None
    experiment: Annotated[str, Field(min_length=1, max_length=500)] = "lightexp"
    timeout_s: Annotated[float, Field(gt=0, le=86_400)] = 60.0
    metrics: mlflow_payload.MetricSelection = "main"
    model: bool = True

    def __post_init__(self) -> None:
        """Check the URI.

        Raises:
            ValueError: If it names a plain folder or holds a password.
        """
        if self.uri is not None and (problem := stores.find_uri_problem(self.uri)):
            raise ValueError(problem)

    def open_mirror(self, outputs: Path, say: Callable[[str], None]) -> MlflowMirror:
        """Make the mirror; see `Tracking.open_mirror`. MLflow is imported on first use, which takes about 2 s."""
        return MlflowMirror(stores.resolve_uri(self.uri, outputs), self, outputs / "mlartifacts", say)


_TARGET = f"{Mlflow.__module__}.{Mlflow.__name__}"


def find_recorded_place(record: Record, outputs: Path) -> Mlflow | None:
    """Return the MLflow server and experiment that a record names; None if it names none.

    The record may be of somebody else, who may have chosen any server: only what the user's command asks for may be
    sent there.

    Args:
        record: The record.
        outputs: The folder of all outputs that it is in.

    Raises:
        BadInput: If what it names is no place of MLflow's.
    """
    node = record.config.get("tracking")
    if not isinstance(node, dict) or resolve_target(str(node.get("_target_"))) != _TARGET:
        return None
    values = {name: node[name] for name in ("uri", "experiment") if name in node}
    noted: dict[str, Any] = {name: record.mlflow[name] for name in ("uri", "experiment") if name in record.mlflow}
    if "run_id" in record.mlflow:  # `tracking.uri` may have been relative to the folder that the run was started in
        values |= noted
    elif any("${" in str(value) for value in values.values()):  # of the environment of then, and of others perhaps
        if len(noted) < 2:
            return None
        values = noted
    place = construct(Mlflow, values, f"{RUNS}/{record.id}: tracking")
    return replace(place, uri=stores.resolve_uri(place.uri, outputs))


def describe_recorded_mirror(record: Record, outputs: Path) -> MirrorSettings | None:
    """Return what opens the mirror that a record names, as `find_recorded_place` reads it; None if it names none."""
    place = find_recorded_place(record, outputs)
    if place is None:
        return None
    return MirrorSettings({"_target_": _TARGET, "uri": place.uri, "experiment": place.experiment}, [], str(outputs))


class MlflowMirror(Mirror):
    """A mirror in one experiment of one MLflow store.

    Attributes:
        uri: The tracking URI, with an absolute path.
    """

    def __init__(self, uri: str, settings: Mlflow, artifacts: Path, say: Callable[[str], None]) -> None:
        """Reach nothing yet; see `Mlflow.open_mirror`.

        Args:
            uri: The tracking URI, with an absolute path.
            settings: The other settings.
            artifacts: The folder of artifacts, where no server decides on one.
            say: Takes each line for the user.
        """
        self.uri = uri
        self._settings, self._experiment = settings, settings.experiment
        self._artifacts = artifacts
        self._say = say
        self._client: TrackingClient | None = None
        self._unreachable: str | None = None  # the reason; the store is then not tried again
        self._uploaders: dict[str, StudyUploader] = {}  # by the id of the study
        self._known_experiment: MlflowExperiment | None = None
        self._answered = -math.inf  # when the store last did what it was asked for
        self._created: dict[str, MlflowRun] = {}  # by the id of the run, until it has ended
        self._parents: dict[str, str] = {}  # MLflow's run id by the id of an ablation or sweep
        self._running: dict[str, str] = {}  # MLflow's run id by the id of the run or study

    def sync(self, folder: Path, create: bool = True) -> SyncResult:
        """See `Mirror.sync`."""
        record = read_run(folder)
        place = self._place
        if not create:
            recorded = find_recorded_place(record, folder.absolute().parents[1])
            if recorded is None or (recorded.uri == self.uri and self._is_store_gone()):
                return SyncResult({})
            if recorded.uri != self.uri:
                return SyncResult({"missing": f"the last command was for another server than {recorded.uri}"})
            place["experiment"] = recorded.experiment
        content = UploadContent(self._settings.metrics, self._settings.model)
        created = self._created.pop(record.id, None)
        uploader = RunUploader(folder, record, place, content, created, self._parents)
        failure = self._attempt(
            record.id,
            lambda client: uploader.upload(client, self._find_experiment_id(client, place["experiment"]), create),
        )
        self._note_running(record.id, record.status == "running", uploader.place.get("run_id"))
        if uploader.created_group:
            self._note_running(uploader.created_group[0], True, uploader.created_group[1])
        if uploader.created is not None and record.status == "running":
            self._created[record.id] = uploader.created
        if failure is not None:
            known = record.mlflow if is_shown_at(record, place) else {}
            return SyncResult({**known, **uploader.place, "missing": failure}, True)
        if "run_id" not in uploader.place:
            return SyncResult({})
        if uploader.is_complete and place == self._place:
            UploadNotes(folder.parent).add(folder, record, self._list_note_keys())
        return SyncResult(uploader.place, uploader.changed, uploader.is_deleted)

    def has_noted(self, folder: Path, record: Record) -> bool:
        """Return whether a note says that MLflow has the present state of a run, about which MLflow is not asked.

        The note counts only while the experiment is the one of then, for which MLflow is asked.

        Args:
            folder: The run's folder.
            record: Its record.
        """
        if math.isinf(self._answered):
            self._attempt(self._experiment, lambda client: None)
        is_known = self._known_experiment is not None and self.is_reachable
        return is_known and UploadNotes(folder.parent).has(folder, record, self._list_note_keys())

    def _list_note_keys(self) -> list[object]:
        """Return what a note of an upload is valid for: this experiment, and what runs get there."""
        experiment = self._known_experiment
        identity = (experiment.experiment_id, experiment.creation_time) if experiment else None
        return [self.uri, self._experiment, identity, self._settings.metrics, self._settings.model]

    def sync_study(self, study: StudyPayload) -> dict[str, str]:
        """See `Mirror.sync_study`."""
        place = dict(self._place)

        def upload(client: TrackingClient) -> None:
            # Put back only after success: what MLflow has of a study is read again after a failure in the middle.
            uploader = self._uploaders.pop(study.id, None) or StudyUploader(
                self._find_experiment_id(client, self._experiment), self._settings.metrics
            )
            place["run_id"] = uploader.upload(client, study)
            self._uploaders[study.id] = uploader

        if failure := self._attempt(study.name, upload):
            place["missing"] = failure
        self._note_running(study.id, study.status == "RUNNING", place.get("run_id"))
        return place

    def _note_running(self, name: str, is_running: bool, run_id: str | None) -> None:
        """Note what `close_running` has to close; `run_id` is None where a failure leaves it unknown."""
        if not is_running:
            self._running.pop(name, None)
        elif run_id is not None:
            self._running[name] = run_id

    def close_running(self) -> None:
        """See `Mirror.close_running`."""
        for run_id in self._running.values():
            self._attempt(run_id, lambda client, run_id=run_id: close_run(client, run_id))  # type: ignore[misc]

    @property
    def is_reachable(self) -> bool:
        """Whether the store has answered so far."""
        return self._unreachable is None

    @property
    def _place(self) -> dict[str, str]:
        return {"uri": self.uri, "experiment": self._experiment}

    def _is_store_gone(self) -> bool:
        file = stores.get_database_file(self.uri)
        return file is not None and not file.exists()

    def _attempt(self, name: str, work: Callable[[TrackingClient], None]) -> str | None:
        """Do `work` with a client of the store.

        Args:
            name: Of the run or study, for the user.
            work: Takes the client.

        Returns:
            The reason of a failure, which has been reported to the user, or None.
        """
        if self._unreachable is not None:
            return self._unreachable
        try:
            with stores.bound_retries(**_PROBE):
                client = self._connect()
        except Exception as error:  # MLflow and its libraries raise anything, and a run must not fail because of it
            return self._give_up(error)
        self._answered = -math.inf
        try:
            with stores.bound_retries(**_WRITE):
                work(client)
        except StoreTimeout as error:
            return self._give_up(error)
        except Exception as error:  # as above
            reason = summarize_mlflow_error(error)
            self._say(
                f"MLflow did not accept all of {name}: {reason}. "
                "Its record is complete; 'lightexp track sync' uploads the rest."
            )
            return reason
        self._answered = time.monotonic()
        return None

    def _give_up(self, error: Exception) -> str:
        """Try the store no more, tell the user once, and return why."""
        self._unreachable = summarize_mlflow_error(error)
        self._say(
            f"MLflow at {self.uri} cannot be used: {self._unreachable}. "
            "Records stay complete; 'lightexp track sync' uploads them once it can."
        )
        return self._unreachable

    def _connect(self) -> TrackingClient:
        """Make the client of a store, and check that the store answers, unless it has just done so."""
        if self._client is None:
            if file := stores.get_database_file(self.uri):
                stores.prepare_database(file, self._artifacts)
            self._client = TrackingClient(self.uri, self._settings.timeout_s)
        if self._known_experiment is None or time.monotonic() - self._answered > _PROBE_PAUSE_S:
            self._known_experiment = self._client.find_experiment(self._experiment)
        return self._client

    def _find_experiment_id(self, client: TrackingClient, name: str) -> str:
        """Return the experiment's id; create it if needed, though another process may be doing the same."""
        is_own = name == self._experiment
        experiment = self._known_experiment if is_own else None
        experiment = experiment or client.find_experiment(name) or self._create_experiment(client, name)
        if is_own:
            self._known_experiment = experiment
        return experiment.experiment_id

    def _create_experiment(self, client: TrackingClient, name: str) -> MlflowExperiment:
        # Without a server MLflow would put artifacts below the current folder; a server has a place for them.
        location = self._artifacts.absolute().as_uri() if stores.is_database(self.uri) else None
        try:
            client.create_experiment(name, location)
        except stores.import_mlflow().MlflowException:
            if experiment := client.find_experiment(name):
                return experiment
            raise
        experiment = client.find_experiment(name)
        if experiment is None:
            raise UnusableAnswer(f"it has created experiment '{name}' and does not find it")
        return experiment


def find_server_problem(uri: str, settings: Mlflow) -> str | None:
    """Return why a server cannot be used, in one line; None if it answers."""
    try:
        with stores.bound_retries(**_PROBE):
            TrackingClient(uri, settings.timeout_s).find_experiment(settings.experiment)
    except Exception as error:  # MLflow and its libraries raise anything where a store cannot be used
        return summarize_mlflow_error(error)
    return None


def summarize_mlflow_error(error: BaseException) -> str:
    """Return the first cause of an error in one line: MLflow wraps `Connection refused` in five other errors."""
    while not isinstance(error, StoreTimeout | UnusableAnswer) and (cause := error.__cause__ or error.__context__):
        error = cause
    lines = format_reason(error).strip().splitlines()
    if lines and _REFUSED_HOST in lines[0]:
        return (
            "it refuses this host name. Start it with mlflow server --allowed-hosts HOST:PORT, or name its IP address"
        )
    return mlflow_payload.format_value(lines[0].rstrip(".") if lines else type(error).__name__, 300)
