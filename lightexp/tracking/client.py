"""MLflow's client as lightexp uses it: each exchange with a store is bounded in time, and each answer is checked.

A store is often a server of somebody else, or a database that something has damaged. What comes from it is validated
here, so that no other module meets a wrong type, or an id that is a path.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lightexp.core import compat
from lightexp.core.errors import BadInput
from lightexp.core.record import RECORD_FILE
from lightexp.tracking import stores

T = TypeVar("T")

MODEL_NAME = "model"
"""Name of the model of each run, so that `runs:/RUN_ID/model` finds it."""
_PAGE_SIZE = 200
_Id = Annotated[str, Field(pattern=r"^[0-9A-Za-z_-]{1,64}$")]


class StoreTimeout(Exception):
    """A store did not finish an exchange in time."""


class UnusableAnswer(Exception):
    """A store answered something that MLflow's stores do not."""


class _Answer(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)


class MlflowRun(_Answer):
    """A run as a store has it.

    Attributes:
        run_id: MLflow's id, which is safe in a path and in a query.
        status: `RUNNING`, `FINISHED` and so on.
        lifecycle_stage: `deleted` for a run in MLflow's bin.
        artifact_uri: Where its files are.
        end_time: Milliseconds since the epoch.
        has_inputs: Whether data sets are logged.
        model_ids: MLflow's ids of the models that the run has made.
        params: Values by name.
        metrics: Last values by name.
        tags: Values by name.
    """

    run_id: _Id
    status: Literal["RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED"]
    lifecycle_stage: Literal["active", "deleted"]
    artifact_uri: str | None
    end_time: int | None
    has_inputs: bool
    model_ids: list[_Id]
    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]


class MlflowModel(_Answer):
    """A logged model as a store has it.

    Attributes:
        model_id: MLflow's id.
        status: `PENDING` until its files are complete, then `READY`.
        artifact_location: Where its files are.
    """

    model_id: _Id
    status: Literal["PENDING", "READY", "FAILED", "UNSPECIFIED"]
    artifact_location: str | None


class MlflowExperiment(_Answer):
    """An experiment as a store has it.

    Attributes:
        experiment_id: MLflow's id, which another store may give to another experiment.
        name: Its name.
        lifecycle_stage: `deleted` for an experiment in MLflow's bin.
        creation_time: Milliseconds since the epoch; a store that was made anew has another one.
    """

    experiment_id: _Id
    name: str
    lifecycle_stage: str | None = None
    creation_time: int | None = None


class _File(_Answer):
    path: str
    file_size: int | None


class TrackingClient:
    """An MLflow store; its methods raise what MLflow raises, `StoreTimeout` and `UnusableAnswer`."""

    def __init__(self, uri: str, timeout_s: float) -> None:
        """Open the store.

        Args:
            uri: The tracking URI.
            timeout_s: Limit of each exchange from its start to its end, however steadily the answer trickles in. It
                does not apply to a file, which answers or fails.
        """
        self._uri = uri
        self._timeout_s = None if stores.get_database_file(uri) else timeout_s
        self._client: Any = self._exchange(lambda: stores.import_mlflow().MlflowClient(tracking_uri=uri))

    def find_experiment(self, name: str) -> MlflowExperiment | None:
        """Return the experiment of a name; None if it does not exist.

        Raises:
            BadInput: If it is in MLflow's bin, where nothing can be added to it, nor another of its name created.
        """
        answer = self._exchange(lambda: self._client.get_experiment_by_name(name))
        if answer is None:
            return None
        experiment = _parse_experiment(answer)
        if experiment.lifecycle_stage == "deleted":
            raise BadInput(
                f"tracking.experiment: '{name}' was deleted. Set another name, or restore it: "
                f"MLFLOW_TRACKING_URI={self._uri} mlflow experiments restore -x {experiment.experiment_id}"
            )
        return experiment

    def list_experiments(self) -> list[str]:
        """Return the names of the first experiments."""
        experiments = self._exchange(lambda: list(self._client.search_experiments(max_results=_PAGE_SIZE)))
        return [_parse_experiment(experiment).name for experiment in experiments]

    def create_experiment(self, name: str, artifacts: str | None) -> None:
        """Create an experiment; `artifacts` is the URI of its files, None where a server has one."""
        self._exchange(lambda: self._client.create_experiment(name, artifact_location=artifacts))

    def find_runs(self, experiment_id: str, query: str, with_deleted: bool = False) -> Iterator[MlflowRun]:
        """Yield the runs that a query selects, oldest first, page by page."""
        views = stores.import_mlflow().entities.ViewType
        view = views.ALL if with_deleted else views.ACTIVE_ONLY
        order, token = ["attributes.start_time ASC"], None
        listed: set[str] = set()
        while True:
            options = {"max_results": _PAGE_SIZE, "order_by": order, "page_token": token}
            page = self._exchange(partial(self._client.search_runs, [experiment_id], query, view, **options))
            for run in map(_parse_run, page):
                if run.run_id in listed:
                    raise UnusableAnswer(f"it lists run {run.run_id} twice")
                listed.add(run.run_id)
                yield run
            token = page.token
            if not token:
                return
            if not page:
                raise UnusableAnswer("it lists no runs and says that more follow")

    def get_run(self, run_id: str) -> MlflowRun:
        """Return a run by its id."""
        return _parse_run(self._exchange(lambda: self._client.get_run(run_id)))

    def create_run(self, experiment_id: str, name: str, tags: dict[str, str], start_ms: int | None = None) -> MlflowRun:
        """Create a run; `start_ms` is in milliseconds since the epoch. Defaults to now."""
        return _parse_run(
            self._exchange(
                lambda: self._client.create_run(experiment_id, start_time=start_ms, tags=tags, run_name=name)
            )
        )

    def log_batch(
        self, run_id: str, metrics: Sequence[Any] = (), params: Sequence[Any] = (), tags: Sequence[Any] = ()
    ) -> None:
        """Log MLflow's entities in one request."""
        self._exchange(lambda: self._client.log_batch(run_id, metrics=metrics, params=params, tags=tags))

    def log_inputs(self, run_id: str, inputs: Sequence[Any]) -> None:
        """Log MLflow's `DatasetInput`s."""
        self._exchange(lambda: self._client.log_inputs(run_id, inputs))

    def set_tag(self, run_id: str, name: str, value: str) -> None:
        """Set one tag."""
        self._exchange(lambda: self._client.set_tag(run_id, name, value))

    def set_status(self, run_id: str, status: str, end_ms: int | None = None) -> None:
        """Set a run's status, and its end if there is one."""
        if end_ms is None:
            self._exchange(lambda: self._client.update_run(run_id, status=status))
        else:
            self._exchange(lambda: self._client.set_terminated(run_id, status, end_time=end_ms))

    def log_file(self, run: MlflowRun, path: Path, folder: str | None) -> None:
        """Upload a file into a folder of a run's files; None is the top."""
        self._check_location(run.artifact_uri)
        self._exchange(lambda: _open_files(run.artifact_uri, self._uri).log_artifact(str(path), folder))

    def list_files(self, run: MlflowRun, folder: str | None) -> dict[str, int | None]:
        """Return the size in bytes of each file in a folder of a run's files, by its path there."""
        self._check_location(run.artifact_uri)
        files = self._exchange(lambda: list(_open_files(run.artifact_uri, self._uri).list_artifacts(folder)))
        parsed = map(_parse_file, files)
        return {file.path: file.file_size for file in parsed}

    def create_model(
        self, experiment_id: str, run_id: str, tags: dict[str, str], params: dict[str, str]
    ) -> MlflowModel:
        """Create the model that a run has made, without files yet."""
        client = self._client
        answer = self._exchange(
            lambda: client.create_logged_model(experiment_id, MODEL_NAME, run_id, tags, params, "tflite")
        )
        model = _parse_model(answer)
        output = stores.import_mlflow().entities.LoggedModelOutput(model.model_id, 0)
        self._exchange(lambda: client.log_outputs(run_id, [output]))
        return model

    def get_model(self, model_id: str) -> MlflowModel:
        """Return a model by its id."""
        return _parse_model(self._exchange(lambda: self._client.get_logged_model(model_id)))

    def complete_model(self, model: MlflowModel, folder: Path) -> None:
        """Upload a model's files, as one exchange, and mark it as ready."""
        self._check_location(model.artifact_location)
        self._exchange(lambda: _open_files(model.artifact_location, self._uri).log_artifacts(str(folder)))
        self._exchange(lambda: self._client.finalize_logged_model(model.model_id, "READY"))

    def download_record(self, run: MlflowRun, folder: Path, place: str = "") -> None:
        """Download the `record.json` of a run, or in the folder `place` of its files, into a folder."""
        self._check_location(run.artifact_uri)
        name, target = str(PurePosixPath(place, RECORD_FILE)), folder / RECORD_FILE
        self._exchange(lambda: compat.download_mlflow_file(run.artifact_uri, self._uri, name, target))

    def transaction(self) -> AbstractContextManager[None]:
        """Write all that follows in the context together; see `compat.mlflow_transaction`."""
        return compat.mlflow_transaction(self._client)

    def _check_location(self, location: str | None) -> None:
        if problem := stores.find_location_problem(self._uri, location):
            raise UnusableAnswer(problem)

    def _exchange(self, work: Callable[[], T]) -> T:
        """Return what `work` returns, or give it up at the limit.

        An abandoned exchange goes on in a daemon thread, which ends with the process: MLflow has no way to stop it, and
        its own limits count from the last byte received.
        """
        if self._timeout_s is None:
            return work()
        result: Future[T] = Future()

        def run() -> None:
            try:
                result.set_result(work())
            except BaseException as error:  # it is raised again where the result is read
                result.set_exception(error)

        threading.Thread(target=run, daemon=True).start()
        try:
            return result.result(self._timeout_s)
        except TimeoutError as error:
            if result.done():  # the store's own error
                raise
            raise StoreTimeout(f"it did not finish an answer in {self._timeout_s:g} s (tracking.timeout_s)") from error


@lru_cache(maxsize=2)
def _open_files(location: str | None, tracking_uri: str) -> Any:
    """Return MLflow's repository of the files of a run or model, without asking the store for its place again."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    return get_artifact_repository(location, tracking_uri=tracking_uri)


def _parse_experiment(experiment: Any) -> MlflowExperiment:
    names = ("experiment_id", "name", "lifecycle_stage", "creation_time")
    return _validate(MlflowExperiment, lambda: {name: getattr(experiment, name) for name in names})


def _parse_file(file: Any) -> _File:
    return _validate(_File, lambda: {"path": file.path, "file_size": file.file_size})


def _parse_model(model: Any) -> MlflowModel:
    def read() -> dict[str, Any]:
        status = str(getattr(model.status, "value", model.status))
        return {"model_id": model.model_id, "status": status, "artifact_location": model.artifact_location}

    return _validate(MlflowModel, read)


def _parse_run(run: Any) -> MlflowRun:
    def read() -> dict[str, Any]:
        info, data = run.info, run.data
        return {
            "run_id": info.run_id,
            "status": info.status,
            "lifecycle_stage": info.lifecycle_stage,
            "artifact_uri": info.artifact_uri,
            "end_time": info.end_time,
            "has_inputs": bool(run.inputs and run.inputs.dataset_inputs),
            "model_ids": [model.model_id for model in run.outputs.model_outputs] if run.outputs else [],
            "params": data.params,
            "metrics": data.metrics,
            "tags": data.tags,
        }

    return _validate(MlflowRun, read)


A = TypeVar("A", bound=_Answer)


def _validate(answer: type[A], read: Callable[[], dict[str, Any]]) -> A:
    """Return a checked answer; `read` takes its fields from MLflow's object, which may lack some."""
    try:
        return answer.model_validate(read())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise UnusableAnswer(f"its answer is not MLflow's: {place}: {first['msg']}") from None
    except (AttributeError, TypeError) as error:
        raise UnusableAnswer(f"its answer is not MLflow's: {error}") from None
