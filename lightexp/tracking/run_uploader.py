"""Upload of one run folder to MLflow: compare the MLflow run with the record, and log what is missing."""

from __future__ import annotations

import math
import tempfile
import time
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path

from lightexp.core.json_text import encode_json
from lightexp.core.record import RECORD_FILE, Record
from lightexp.tracking import mlflow_payload, stores
from lightexp.tracking.client import MlflowModel, MlflowRun, TrackingClient
from lightexp.tracking.mirror import SyncResult, is_shown_at
from lightexp.tracking.mlflow_model import find_model, write_model_folder
from lightexp.tracking.run_groups import RunGroup, find_group, lock_groups
from lightexp.tracking.study_uploader import PARENT_TAG, create_study_run, find_study_run

_STATUS = {"done": "FINISHED", "failed": "FAILED", "interrupted": "KILLED", "killed": "KILLED", "running": "RUNNING"}
_TEMPORARY_SUFFIXES = (".lock", ".tmp")
_RUN_ID = "lightexp.run_id"
# MLflow limits the sum of all three in a call:
_BATCH_METRICS = mlflow_payload.METRICS - mlflow_payload.PARAMS - mlflow_payload.TAGS


@dataclass(frozen=True)
class UploadContent:
    """What a run gets in MLflow.

    Attributes:
        metrics: See `mlflow_payload.list_points`. Defaults to `main`.
        model: Whether its `.tflite` becomes an MLflow model. Defaults to True.
    """

    metrics: mlflow_payload.MetricSelection = "main"
    model: bool = True


class RunUploader:
    """Bring one MLflow run to the state of a run folder's record."""

    def __init__(
        self,
        folder: Path,
        record: Record,
        place: dict[str, str],
        content: UploadContent,
        created: MlflowRun | None = None,
        parents: dict[str, str] | None = None,
    ) -> None:
        """Upload nothing yet.

        Args:
            folder: The run's folder, whose files are uploaded.
            record: Its record.
            place: The `uri` and `experiment` of the MLflow experiment.
            content: What the run gets.
            created: The run as this process has created and left it, which saves searching and reading it. Defaults
                to None.
            parents: MLflow's runs of ablations and sweeps by their ids, as far as this process knows them, which saves
                searching them; it is added to. Defaults to none.
        """
        self.place = dict(place)
        """As `SyncResult.place`, with `run_id` as soon as the MLflow run is known."""
        self.changed = False
        """Whether anything was uploaded."""
        self.is_deleted = False
        """Whether the run is in MLflow's bin, so that nothing is uploaded."""
        self.is_complete = False
        """Whether MLflow has all of a run that has ended."""
        self.created = created
        """The run if this process has created it."""
        self.created_group: tuple[str, str] | None = None
        """Id and parent run of the record's ablation or sweep, if it is shown as running since this upload."""
        self._folder, self._record, self._content = folder, record, content
        self._parents = {} if parents is None else parents
        self._new_model: MlflowModel | None = None
        self._end_ms = int((record.ended or record.started) * 1000)

    def upload(self, client: TrackingClient, experiment_id: str, create: bool) -> None:
        """Find or create the MLflow run, and log what it lacks. A second call changes nothing.

        Args:
            client: The store.
            experiment_id: Where the run is, or is created.
            create: Whether a run that is not there is created.

        Raises:
            Exception: Whatever MLflow raises; what was logged until then stays, and the next call adds the rest.
        """
        if self.created is not None:
            try:
                self._log(client, self.created, experiment_id)
                return
            except stores.import_mlflow().MlflowException:
                self.created = None  # deleted since, perhaps: what the store has of it is read
        run = self._find_run(client, experiment_id)
        if run is None and create:
            run = self.created = self._create_run(client, experiment_id)
        if run is not None:
            self._log(client, run, experiment_id)

    def _log(self, client: TrackingClient, run: MlflowRun, experiment_id: str) -> None:
        self.place["run_id"] = run.run_id
        self.is_deleted = run.lifecycle_stage == "deleted"
        if self.is_deleted:
            return
        with client.transaction():
            model_id = self._log_values(client, run, experiment_id)
        if self._record.status == "running":
            return
        self._log_files(client, run)
        if model_id is not None:
            self._complete_model(client, run, model_id)
        self.is_complete = True

    def _log_values(self, client: TrackingClient, run: MlflowRun, experiment_id: str) -> str | None:
        """Log all but files, and return the id of the run's model, if it has one."""
        model_id = self._find_or_create_model(client, run, experiment_id)
        self._log_batches(client, run, model_id)
        if self._record.status == "running":
            return model_id
        # The status before the files: if this process dies while it uploads them, the run does not look alive.
        if (run.status, run.end_time) != (_STATUS[self._record.status], self._end_ms):
            client.set_status(run.run_id, _STATUS[self._record.status], self._end_ms)
            self.changed = True
        self._log_inputs(client, run)
        return model_id

    def _find_run(self, client: TrackingClient, experiment_id: str) -> MlflowRun | None:
        """Return the MLflow run of the record, a deleted one if there is no other, or None."""
        if self._record.status == "running" and not self._record.mlflow:
            return None  # it has just begun
        if "run_id" in self._record.mlflow and is_shown_at(self._record, self.place):
            try:
                run = client.get_run(self._record.mlflow["run_id"])
                if run.tags.get(_RUN_ID) == self._record.id:  # a record of others may name any run
                    return run
            except stores.import_mlflow().MlflowException:
                pass  # the store was deleted and created anew since
        query = f"tags.`{_RUN_ID}` = '{self._record.id}'"
        runs = list(client.find_runs(experiment_id, query, with_deleted=True))
        active = [run for run in runs if run.lifecycle_stage != "deleted"]
        return next(iter([*active, *runs]), None)

    def _create_run(self, client: TrackingClient, experiment_id: str) -> MlflowRun:
        self.changed = True
        name = mlflow_payload.build_run_name(self._record)
        tags = mlflow_payload.build_tags(self._record)
        if group := find_group(self._record.tags, self._folder.absolute().parents[1]):
            tags[PARENT_TAG] = self._find_or_create_parent(client, experiment_id, group)
        return client.create_run(experiment_id, name, tags, int(self._record.started * 1000))

    def _find_or_create_parent(self, client: TrackingClient, experiment_id: str, group: RunGroup) -> str:
        """Return the id of the parent run of the record's ablation or sweep."""
        if group.id in self._parents:
            return self._parents[group.id]
        with lock_groups(self._folder.absolute().parents[1]):
            run = find_study_run(client, experiment_id, group.id)
            if run is None:
                run = create_study_run(client, experiment_id, group.id, group.name)
                if self._record.status == "running":
                    self.created_group = group.id, run.run_id
                else:
                    client.set_status(run.run_id, "FINISHED")
        self._parents[group.id] = run.run_id
        return run.run_id

    def _find_or_create_model(self, client: TrackingClient, run: MlflowRun, experiment_id: str) -> str | None:
        """Return the id of the run's model, which its metrics are linked to; None if it has and gets none."""
        if run.model_ids:
            return run.model_ids[0]
        if not self._content.model or not find_model(self._record, self._folder):
            return None
        self.changed = True
        tags = {_RUN_ID: self._record.id, "mlflow.source.name": "lightexp"}
        params = mlflow_payload.build_model_params(self._record)
        self._new_model = client.create_model(experiment_id, run.run_id, tags, params)
        return self._new_model.model_id

    def _complete_model(self, client: TrackingClient, run: MlflowRun, model_id: str) -> None:
        """Upload the model's files, unless they are complete."""
        model, path = self._new_model or client.get_model(model_id), find_model(self._record, self._folder)
        if model.status == "READY" or path is None:
            return
        metrics = {point.key: point.value for point in mlflow_payload.list_points(self._record) if not point.step}
        with tempfile.TemporaryDirectory() as folder:
            ids = {"run_id": run.run_id, "model_id": model_id, "model_uuid": model_id}
            write_model_folder(Path(folder), self._record, path, metrics, ids)
            client.complete_model(model, Path(folder))
        self.changed = True

    def _log_batches(self, client: TrackingClient, run: MlflowRun, model_id: str | None) -> None:
        """Log params that are missing, tags that differ, and metrics and curves that are missing, in few calls."""
        entities = stores.import_mlflow().entities
        params = mlflow_payload.build_params(self._record.config)
        missing = {name: value for name, value in params.items() if name not in run.params}
        tags = mlflow_payload.build_tags(self._record)
        tags |= mlflow_payload.build_run_note_tags(self._record, run.tags)
        different = {name: value for name, value in tags.items() if run.tags.get(name) != value}
        metrics = [
            entities.Metric(p.key, p.value, self._choose_timestamp(p, run), p.step, None if p.step else model_id)
            for p in self._list_missing_points(run)
        ]
        batches = zip_longest(
            mlflow_payload.split_batches(missing, mlflow_payload.PARAMS),
            mlflow_payload.split_batches(different, mlflow_payload.TAGS),
            [metrics[first : first + _BATCH_METRICS] for first in range(0, len(metrics), _BATCH_METRICS)],
        )
        for param_batch, tag_batch, metric_batch in batches:
            client.log_batch(
                run.run_id,
                params=[entities.Param(name, value) for name, value in (param_batch or {}).items()],
                tags=[entities.RunTag(name, value) for name, value in (tag_batch or {}).items()],
                metrics=metric_batch or (),
            )
            run.params.update(param_batch or {})
            self.changed = True

    def _list_missing_points(self, run: MlflowRun) -> list[mlflow_payload.MetricPoint]:
        """Return all metrics of a run that has not ended in MLflow, else those added or measured again since."""
        if self._record.status == "running":
            return []
        points = mlflow_payload.list_points(self._record, self._content.metrics)
        is_complete = run.status != "RUNNING" and self._new_model is None  # which the metrics are linked to
        return [point for point in points if not (is_complete and _is_logged(point, run))]

    def _choose_timestamp(self, point: mlflow_payload.MetricPoint, run: MlflowRun) -> int:
        """Return the run's end, since MLflow ignores a point that it has; of one measured again since then, now."""
        is_measured_again = run.status != "RUNNING" and point.key in run.metrics and not _is_logged(point, run)
        return int(time.time() * 1000) if is_measured_again else self._end_ms

    def _log_inputs(self, client: TrackingClient, run: MlflowRun) -> None:
        if run.has_inputs:
            return
        entities = stores.import_mlflow().entities
        source = encode_json({"tags": {"mlflow.source.name": "lightexp", "mlflow.source.type": "LOCAL"}})
        inputs = [
            entities.DatasetInput(
                entities.Dataset(name, digest, "code", source, profile=profile),
                [entities.InputTag("mlflow.data.context", split)],
            )
            for name, digest, profile, split in mlflow_payload.list_inputs(self._record)
        ]
        if inputs:
            client.log_inputs(run.run_id, inputs)
            self.changed = True

    def _log_files(self, client: TrackingClient, run: MlflowRun) -> None:
        """Upload the folder's files, except those that are there in the same size."""
        with tempfile.TemporaryDirectory() as draft_folder:
            final = replace(self._record)
            SyncResult(self.place).note_in(final)  # the copy of the record in MLflow says where it is
            final.write(Path(draft_folder))
            metrics_file = Path(draft_folder) / mlflow_payload.METRICS_FILE
            metrics_file.write_text(mlflow_payload.render_metrics(self._record), encoding="utf-8")
            files = {path.name: path for path in (Path(draft_folder) / RECORD_FILE, metrics_file)}
            files |= {path.relative_to(self._folder).as_posix(): path for path in list_files(self._folder)}
            folders = {_find_parent_folder(name) for name in files}
            uploaded = {} if run.status == "RUNNING" else _list_uploaded(client, run, folders)
            for name, path in files.items():
                is_remade = self.changed and path.parent == Path(draft_folder)  # perhaps in the same size
                if is_remade or uploaded.get(name) != path.stat().st_size:
                    client.log_file(run, path, _find_parent_folder(name))
                    self.changed = True


def _is_logged(point: mlflow_payload.MetricPoint, run: MlflowRun) -> bool:
    """Whether a run that has ended in MLflow has a point; of a curve it has all or none, and shows the last."""
    logged = run.metrics.get(point.key)
    return logged is not None and (point.step > 0 or math.isclose(logged, point.value, rel_tol=1e-9))


def list_files(folder: Path) -> list[Path]:
    """Return the files of a run's folder except its record, sorted; without links to files outside the folder."""
    inside = folder.resolve()
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix not in _TEMPORARY_SUFFIXES)
    return [path for path in paths if path != folder / RECORD_FILE and path.resolve().is_relative_to(inside)]


def _find_parent_folder(name: str) -> str | None:
    """Return the folder of a file's name, as MLflow wants it: None is the top."""
    return name.rpartition("/")[0] or None


def _list_uploaded(client: TrackingClient, run: MlflowRun, folders: set[str | None]) -> dict[str, int | None]:
    """Return the size in bytes of each file that MLflow has in some folders, by its path there."""
    return {path: size for folder in folders for path, size in client.list_files(run, folder).items()}
