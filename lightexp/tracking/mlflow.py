"""The mirror in MLflow. MLflow is imported on first use, as that takes about 2 s."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from lightexp.core.config import settings_dataclass
from lightexp.core.errors import RunFailed
from lightexp.core.record import Record
from lightexp.tracking import mlflow_payload, stores, study_payload
from lightexp.tracking.mirror import Mirror, Tracking

_STATUS = {"done": "FINISHED", "failed": "FAILED", "interrupted": "KILLED", "killed": "KILLED"}
_PASSING = (".lock", ".tmp")
_IS_IT_THERE = {"timeout": 4, "retries": 0}
_WRITE = {"timeout": 30, "retries": 2}


@settings_dataclass
class Mlflow(Tracking):
    """Mirrors records in MLflow.

    Attributes:
        uri: Tracking URI; None is a SQLite file, `mlflow.db`, in the outputs folder.
        experiment: Name of the experiment, which is made if it is not there.
    """

    uri: str | None = None
    experiment: Annotated[str, Field(min_length=1, max_length=500)] = "lightexp"

    def __post_init__(self) -> None:
        """Checks the URI.

        Raises:
            ValueError: If it names a plain folder or holds a password.
        """
        if self.uri is not None and (words := stores.find_uri_problem(self.uri)):
            raise ValueError(words)

    def mirror(self, outputs: Path, say: Callable[[str], None]) -> MlflowMirror:
        """Makes the mirror; see `Tracking.mirror`."""
        return MlflowMirror(stores.resolve_uri(self.uri, outputs), self.experiment, outputs / "mlartifacts", say)


class MlflowMirror(Mirror):
    """A mirror in one experiment of one MLflow store.

    Attributes:
        uri: The whole tracking URI.
    """

    def __init__(self, uri: str, experiment: str, artifacts: Path, say: Callable[[str], None]) -> None:
        """Reaches nothing yet; see `Mlflow.mirror`."""
        self.uri = uri
        self._experiment = experiment
        self._artifacts = artifacts
        self._say = say
        self._clients: dict[str, Any] = {}
        self._open: dict[str, str] = {}  # studies that are shown as running: their runs' ids by the studies'
        self._shown: dict[str, study_payload.StudyUploader] = {}
        self._down: dict[str, str] = {}  # URI to why it cannot be reached: each is tried, and complained of, once

    def start(self, record: Record) -> None:
        """See `Mirror.start`."""
        record.mlflow = self.place

        def work(client: Any) -> None:
            run = client.create_run(
                self._experiment_id(client),
                start_time=int(record.started * 1000),
                tags=mlflow_payload.build_tags(record),
                run_name=mlflow_payload.format_value(record.name, mlflow_payload.TAG_CHARS),
            )
            record.mlflow["run_id"] = run.info.run_id
            _log_params(client, run.info.run_id, record)

        self._try(self.uri, record.mlflow, record.id, work)

    def end(self, record: Record, folder: Path) -> None:
        """See `Mirror.end`."""
        if "run_id" not in record.mlflow:
            self.start(record)
        if "run_id" not in record.mlflow:
            return
        run_id, status = record.mlflow["run_id"], _STATUS[record.status]
        stamp = int((record.ended or record.started) * 1000)

        def work(client: Any) -> None:
            entities = stores.import_mlflow().entities
            if "missing" in record.mlflow:
                _log_params(client, run_id, record)
            for part in mlflow_payload.split_batches(mlflow_payload.build_tags(record), mlflow_payload.TAGS):
                client.log_batch(run_id, tags=[entities.RunTag(name, value) for name, value in part.items()])
            # One stamp for all, and not the present time, so that a second time adds nothing.
            metrics = [entities.Metric(p.key, p.value, stamp, p.step) for p in mlflow_payload.list_points(record)]
            for first in range(0, len(metrics), mlflow_payload.METRICS):
                client.log_batch(run_id, metrics=metrics[first : first + mlflow_payload.METRICS])
            # The status before the files: if the process dies over these, the run does not look as if it went on.
            client.set_terminated(run_id, status, end_time=stamp)
            _log_inputs(client, run_id, record)
            for path, where in _files(folder):
                client.log_artifact(run_id, str(path), where)

        if self._try(self._uri_of(record), record.mlflow, record.id, work):
            record.mlflow.pop("missing", None)

    def close(self, record: Record) -> None:
        """See `Mirror.close`."""
        if "run_id" not in record.mlflow:
            return
        uri, run_id = self._uri_of(record), record.mlflow["run_id"]
        if (file := stores.get_database_file(uri)) and not file.exists():
            return  # the store is gone, and the run with it

        def work(client: Any) -> None:
            if client.get_run(run_id).info.status != "RUNNING":
                return
            words = {"lightexp.status": "killed", "lightexp.reason": record.reason or "the process was killed"}
            tag = stores.import_mlflow().entities.RunTag
            client.log_batch(
                run_id,
                tags=[tag(k, mlflow_payload.format_value(v, mlflow_payload.TAG_CHARS)) for k, v in words.items()],
            )
            client.set_terminated(run_id, "KILLED", end_time=None if record.ended is None else int(record.ended * 1000))

        self._try(uri, record.mlflow, record.id, work)

    @property
    def place(self) -> dict[str, str]:
        """What stands in the record of a run that is shown here."""
        return {"uri": self.uri, "experiment": self._experiment}

    def shown(self) -> dict[str, Any]:
        """What the experiment shows: MLflow's runs by lightexp's run ids, those in its bin too.

        Raises:
            RunFailed: If the store cannot be used.
        """
        found: dict[str, Any] = {}
        try:
            with stores.bound_retries(**_IS_IT_THERE):
                client = self._client(self.uri)
            with stores.bound_retries(**_WRITE):
                experiment, token = client.get_experiment_by_name(self._experiment), None
                while experiment:
                    both = stores.import_mlflow().entities.ViewType.ALL
                    page = client.search_runs([experiment.experiment_id], "", both, 1000, page_token=token)
                    found |= {run.data.tags.get("lightexp.run_id", ""): run for run in page}
                    if not (token := page.token):
                        break
        except Exception as error:
            raise RunFailed(f"MLflow at {self.uri} cannot be used: {summarize_mlflow_error(error)}.") from None
        return found

    def holds(self, run: Any, folder: Path) -> bool:
        """Whether one of the runs that are shown has ended there and has all files of a run's folder.

        Raises:
            RunFailed: If the store cannot be used.
        """
        if run.info.status == "RUNNING":
            return False
        there: dict[str, int] = {}
        try:
            with stores.bound_retries(**_WRITE):
                for place in {where for _, where in _files(folder)}:
                    listed = self._client(self.uri).list_artifacts(run.info.run_id, place)
                    there |= {file.path: file.file_size for file in listed}
        except Exception as error:
            raise RunFailed(f"MLflow at {self.uri} cannot be used: {summarize_mlflow_error(error)}.") from None
        return all(there.get(path.relative_to(folder).as_posix()) == path.stat().st_size for path, _ in _files(folder))

    def _uri_of(self, record: Record) -> str:
        return record.mlflow.get("uri", self.uri)

    def study(self, study: study_payload.StudyPayload) -> dict[str, str]:
        """See `Mirror.study`."""
        noted = {"uri": self.uri, "experiment": self._experiment}

        def work(client: Any) -> None:
            shown = self._shown.pop(study.id, None) or study_payload.StudyUploader(self._experiment_id(client))
            noted["run_id"] = self._open[study.id] = shown.show(client, study)
            self._shown[study.id] = shown  # only now: what fails in the middle is read again

        self._try(self.uri, noted, study.name, work)
        if study.status != "RUNNING":
            self._open.pop(study.id, None)
        return noted

    def left(self) -> None:
        """See `Mirror.left`."""
        for run_id in self._open.values():
            self._try(self.uri, {}, run_id, lambda client, run_id=run_id: study_payload.close_study(client, run_id))  # type: ignore[misc]

    def _try(self, uri: str, noted: dict[str, str], name: str, work: Callable[[Any], None]) -> bool:
        """Does `work` with a client of `uri`; says and notes why, where that fails."""
        if uri not in self._down:
            try:
                with stores.bound_retries(**_IS_IT_THERE):
                    client = self._client(uri)
            except Exception as error:  # whatever a mirror meets, the run goes on
                self._down[uri] = summarize_mlflow_error(error)
                self._say(f"MLflow at {uri} cannot be used: {self._down[uri]}. The run goes on; its record is whole.")
        if uri in self._down:
            noted["missing"] = self._down[uri]
            return False
        try:
            with stores.bound_retries(**_WRITE):
                work(client)
        except Exception as error:
            noted["missing"] = summarize_mlflow_error(error)
            self._say(f"MLflow did not take all of {name}: {summarize_mlflow_error(error)}. Its record is whole.")
            return False
        return True

    def _client(self, uri: str) -> Any:
        """A client of a store that has just answered."""
        if uri not in self._clients:
            if file := stores.get_database_file(uri):
                stores.prepare_database(file, self._artifacts)
            self._clients[uri] = stores.import_mlflow().MlflowClient(tracking_uri=uri)
        self._clients[uri].get_experiment_by_name(self._experiment)
        return self._clients[uri]

    def _experiment_id(self, client: Any) -> str:
        """The experiment's id, made if it is not there; another process may be doing the same."""
        if found := client.get_experiment_by_name(self._experiment):
            return str(found.experiment_id)
        # Without a server MLflow would put artifacts below the current folder; a server knows its own place.
        place = self._artifacts.absolute().as_uri() if stores.is_database(self.uri) else None
        try:
            return str(client.create_experiment(self._experiment, artifact_location=place))
        except stores.import_mlflow().MlflowException:
            if found := client.get_experiment_by_name(self._experiment):
                return str(found.experiment_id)
            raise


def _files(folder: Path) -> list[tuple[Path, str | None]]:
    """A run's files, each with the folder that MLflow keeps it in; None is the top."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix not in _PASSING)
    return [(p, None if p.parent == folder else p.parent.relative_to(folder).as_posix()) for p in paths]


def _log_params(client: Any, run_id: str, record: Record) -> None:
    param = stores.import_mlflow().entities.Param
    for part in mlflow_payload.split_batches(mlflow_payload.build_params(record.config), mlflow_payload.PARAMS):
        client.log_batch(run_id, params=[param(name, value) for name, value in part.items()])


def _log_inputs(client: Any, run_id: str, record: Record) -> None:
    entities = stores.import_mlflow().entities
    source = json.dumps({"tags": {"mlflow.source.name": "lightexp", "mlflow.source.type": "LOCAL"}})
    found = [
        entities.DatasetInput(
            entities.Dataset(name, digest, "code", source, profile=profile),
            [entities.InputTag("mlflow.data.context", split)],
        )
        for name, digest, profile, split in mlflow_payload.list_inputs(record)
    ]
    if found:
        client.log_inputs(run_id, found)


def summarize_mlflow_error(error: BaseException) -> str:
    """The first cause in one line: MLflow and its libraries wrap `Connection refused` in five others."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    lines = (getattr(error, "strerror", None) or str(error)).strip().splitlines()
    return mlflow_payload.format_value(lines[0].rstrip(".") if lines else type(error).__name__, 300)
