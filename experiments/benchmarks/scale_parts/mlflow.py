"""runs in an MLflow experiment: what it costs to log one more, and a second `lightexp track sync`.

A run is logged, into a SQLite file and to a server, and its rows are copied until the experiment has 100 and 10,000
runs. Then runs are logged in turn into the small and the large experiment: shown as running, then with metrics, files
and model. Of 1,000 copies in the large one the folders are made as well, and `lightexp track sync` is called twice: the
first call compares each with MLflow, the second finds it noted. The seconds do not include the import of MLflow.
"""

from __future__ import annotations

import io
import shutil
import sqlite3
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from common import Result

sys.path.insert(0, str(Path(__file__).parents[3]))

from lightexp.cli.main import main
from lightexp.core.artifact import TFLITE
from lightexp.core.record import RECORD_FILE, Record, read_run
from lightexp.core.records import RUNS
from lightexp.runner.compose import compose_settings
from lightexp.tracking import stores
from lightexp.tracking.mlflow import Mlflow, MlflowMirror
from tests.mlflow_server import serve_mlflow
from tests.synthetic import synthesize_record

GROWTH_TARGET, SYNC_TARGET_S = 1.3, 10.0
_MODEL = Path(__file__).parents[3] / "tests" / "search" / "plugin" / "tiny.tflite"
_ROWS_OF_RUN = {
    "runs": "run_uuid = :run",
    "tags": "run_uuid = :run",
    "params": "run_uuid = :run",
    "metrics": "run_uuid = :run",
    "latest_metrics": "run_uuid = :run",
    "logged_models": "model_id = :model",
    "logged_model_tags": "model_id = :model",
    "logged_model_params": "model_id = :model",
    "logged_model_metrics": "model_id = :model",
    "input_tags": "input_uuid in (select input_uuid from inputs where destination_id = :run)",
    "inputs": "destination_id = :run or source_id = :run",
}
"""The rows that MLflow 3.17 has of a run, by table."""
_ID_COLUMNS = ("run_uuid", "run_id", "source_run_id", "model_id", "source_id", "destination_id")
_ID_COLUMNS += ("artifact_uri", "artifact_location", "tags.value")


@dataclass(frozen=True)
class Sizes:
    """Numbers of runs: in the two experiments, that are logged into each, and that are synchronized."""

    small: int = 100
    large: int = 10_000
    logged: int = 20
    synced: int = 1_000


@dataclass(frozen=True)
class Experiment:
    """An experiment with one run, which has copies.

    Attributes:
        outputs: The outputs folder of the run.
        database: MLflow's SQLite file.
        files: The folder of all artifacts of the experiment.
        uri: The tracking URI.
        mirror: Logs runs.
    """

    outputs: Path
    database: Path
    files: Path
    uri: str
    mirror: MlflowMirror

    def log(self, name: str) -> float:
        """Log a run as `lightexp run` does it, at its start and at its end, and return the seconds."""
        folder = self.outputs / RUNS / name
        folder.mkdir(parents=True)
        shutil.copyfile(_MODEL, folder / TFLITE)
        record = make_record(name)
        record.write(folder)
        seconds = 0.0
        for status in ("running", "done"):
            record.status = status  # type: ignore[assignment]
            record.write(folder)
            start = time.perf_counter()
            result = self.mirror.sync(folder)
            seconds += time.perf_counter() - start
            result.note_in(record)
            assert "run_id" in record.mlflow, record.mlflow
            record.write(folder)
        return seconds

    def copy_run(self, name: str, copies: Sequence[str]) -> None:
        """Copy a run in MLflow's database; the copies have other names."""
        with closing(sqlite3.connect(self.database)) as database:
            query = "select run_uuid from tags where key = 'lightexp.run_id' and value = ?"
            (run,) = database.execute(query, [name]).fetchone()
            query = "select destination_id from inputs where source_id = ?"
            (model,) = database.execute(query, [run]).fetchone()
            database.execute("create temp table copies (number integer, run text, model text, name text)")
            ids = [uuid.uuid5(uuid.NAMESPACE_OID, copy).hex for copy in copies]
            rows = [(number, one, f"m-{one}", copies[number]) for number, one in enumerate(ids)]
            database.executemany("insert into copies values (?, ?, ?, ?)", rows)
            for table, selection in _ROWS_OF_RUN.items():
                columns = [row[1] for row in database.execute(f"pragma table_info({table})")]
                values = ", ".join(_format_copied(table, column) for column in columns)
                names = ", ".join(f'"{column}"' for column in columns)
                database.execute(
                    f"insert into {table} ({names}) select {values} from {table}, copies where {selection}",
                    {"run": run, "model": model, "name": name},
                )
            database.commit()

    def write_copy(self, name: str, copy: str) -> None:
        """Make the run's folder and the artifacts of a copy."""
        folder = self.outputs / RUNS / copy
        shutil.copytree(self.outputs / RUNS / name, folder)
        record = read_run(self.outputs / RUNS / name)
        run_id = uuid.uuid5(uuid.NAMESPACE_OID, copy).hex
        source = self.files / record.mlflow["run_id"]
        shutil.copytree(source, self.files / run_id)
        record = replace(record, id=copy, mlflow={**record.mlflow, "run_id": run_id})
        record.write(folder)
        record.write(self.files / run_id / "artifacts")

    def count_runs(self) -> int:
        """Return the number of MLflow's runs."""
        with closing(sqlite3.connect(self.database)) as database:
            return int(database.execute("select count(*) from runs").fetchone()[0])


def _format_copied(table: str, column: str) -> str:
    """Return the SQL of a column's value in a copy."""
    if column == "input_uuid":
        return f"copies.number || '-' || {table}.{column}"
    value = f'{table}."{column}"'
    if column in _ID_COLUMNS or f"{table}.{column}" in _ID_COLUMNS:
        value = f"replace(replace(replace({value}, :run, copies.run), :model, copies.model), :name, copies.name)"
    return value


def make_record(name: str) -> Record:
    """Return the record of a run of the default pipeline, with all its settings."""
    record = synthesize_record(config=compose_settings([]).written, id=name)
    record.dataset |= {"shape": [8, 8, 1], "scale": 1.0, "offset": 0.0, "labels": list("abcd")}
    return record


def measure(smoke: bool) -> list[Result]:
    """Measure a SQLite file, and a server unless `smoke` is set."""
    sizes = Sizes(2, 6, 1, 3) if smoke else Sizes()
    results: list[Result] = []
    for kind, open_experiment in {"SQLite": open_database, **({} if smoke else {"server": open_server})}.items():
        with (
            tempfile.TemporaryDirectory() as folder,
            open_experiment(Path(folder, "small")) as small,
            open_experiment(Path(folder, "large")) as large,
        ):
            results += measure_store(kind, small, large, sizes)
    return results


@cache
def make_database() -> bytes:
    """Return MLflow's empty database, which takes a second to make."""
    with tempfile.TemporaryDirectory() as folder, stores.bound_retries(timeout=30, retries=0):
        stores.prepare_database(Path(folder, "mlflow.db"), Path(folder))
        return Path(folder, "mlflow.db").read_bytes()


@contextmanager
def open_database(folder: Path) -> Iterator[Experiment]:
    """Provide an experiment in a SQLite file."""
    outputs = folder / "outputs"
    outputs.mkdir(parents=True)
    (outputs / "mlflow.db").write_bytes(make_database())
    mirror = Mlflow().open_mirror(outputs, print)
    yield Experiment(outputs, outputs / "mlflow.db", outputs / "mlartifacts", mirror.uri, mirror)


@contextmanager
def open_server(folder: Path) -> Iterator[Experiment]:
    """Provide an experiment at a server on loopback, which keeps it in a SQLite file."""
    folder.mkdir()
    (folder / "mlflow.db").write_bytes(make_database())
    with serve_mlflow(folder) as uri:
        mirror = Mlflow(uri=uri).open_mirror(folder / "outputs", print)
        yield Experiment(folder / "outputs", folder / "mlflow.db", folder / "files" / "1", uri, mirror)


def measure_store(kind: str, small: Experiment, large: Experiment, sizes: Sizes) -> list[Result]:
    """Compare both experiments, and synchronize runs with the large one."""
    names = [format_name(number) for number in range(sizes.large)]
    for experiment, size in ((small, sizes.small), (large, sizes.large)):
        experiment.log(names[0])
        experiment.copy_run(names[0], names[1:size])
        report(f"{kind}: an experiment of {size:,} runs")
    no_model = replace(small, mirror=Mlflow(uri=small.uri, model=False).open_mirror(small.outputs, print))
    ours, theirs, bare = (list[float]() for _ in range(3))
    for number in range(sizes.large, sizes.large + sizes.logged):
        theirs.append(small.log(format_name(number)))
        ours.append(large.log(format_name(number)))
        bare.append(no_model.log(f"{format_name(number)}-no-model"))
    times = [f"{statistics.median(seconds) * 1000:.0f} ms" for seconds in (ours, theirs, bare)]
    note = f"{sizes.large:,} runs there: {times[0]}, {sizes.small:,}: {times[1]}, and without its model {times[2]}"
    growth = Result(f"MLflow, {kind}: logging a run", ours, theirs, "s", GROWTH_TARGET, at_least=False, note=note)
    return [growth, *measure_sync(kind, large, names[: sizes.synced])]


def measure_sync(kind: str, experiment: Experiment, names: list[str]) -> list[Result]:
    """Synchronize runs twice, of which MLflow has each already."""
    shutil.rmtree(experiment.outputs / RUNS / ".uploaded")
    for copy in names[1:]:
        experiment.write_copy(names[0], copy)
    before = experiment.count_runs()
    walls, uploaded = [], 0
    for _ in range(2):
        output, start = io.StringIO(), time.perf_counter()
        arguments = [f"paths.outputs={experiment.outputs}", f"tracking.uri={experiment.uri}"]
        with redirect_stdout(output):
            code = main(["track", "sync", *arguments])
        walls.append(time.perf_counter() - start)
        assert code == 0, output.getvalue()
        uploaded += sum(": run " in line for line in output.getvalue().splitlines())
        report(f"{kind}: track sync in {walls[-1]:.1f} s: {output.getvalue().splitlines()[-1]}")
    uploaded += experiment.count_runs() - before
    runs = sum(1 for _ in (experiment.outputs / RUNS).glob(f"*/{RECORD_FILE}"))
    note = f"{runs:,} runs; without notes of their upload {walls[0]:.1f} s"
    return [
        Result(f"MLflow, {kind}: track sync, second time", [walls[1]], [], "s", SYNC_TARGET_S, False, note),
        Result(f"MLflow, {kind}: runs uploaded twice", [float(uploaded)], [], "runs", 0.0, False),
    ]


def format_name(number: int) -> str:
    """Return the id of a run."""
    return f"2026-01-01_00-00-00-{number:06x}"


def report(line: str) -> None:
    """Show progress."""
    print(f"mlflow: {line}", file=sys.stderr, flush=True)
