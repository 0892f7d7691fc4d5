"""A study whose trials cost nothing but their overhead, on a journal or PostgreSQL, filled quickly."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import FrozenTrial, TrialState

from lightexp.core.json_text import encode_json
from lightexp.search.preparation import prepare_study
from lightexp.search.study import SearchStudy
from lightexp.search.study_spec import StudySpec
from scale_parts import _constant

BENCHMARKS = Path(__file__).parents[1]
sys.path.append(str(BENCHMARKS.parents[1]))
from tests.system_packages import require_postgresql  # noqa: E402

STUDY = "constant"
CONF = Path(__file__).parent / "conf"
_TINY_FILE = BENCHMARKS.parents[1] / "tests" / "search" / "plugin" / "tiny.tflite"


def list_overrides(folder: Path, storage: str | None, trials: int, *others: str) -> list[str]:
    """Return the overrides of the study in a folder; writes its data set there."""
    data = folder / "tiny.npz"
    if not data.exists():
        np.savez(data, x=np.random.default_rng(0).integers(0, 255, (100, 8, 8), np.uint8), y=np.arange(100) % 4)
    return [
        *(
            "pipeline=constant",
            "measure=constant",
            "plugins=[scale_parts]",
            f"search.study={STUDY}",
            "search.corners=[]",
        ),
        *("dataset=arrays", f"dataset.path={data}", "model=from_file", f"model.path={_TINY_FILE}", "runtime.threads=1"),
        *("search.space=auto", "search.objectives=[constant/error,constant/cost]"),
        *(
            "search.constraints=['constant/cost <= 0.9']",
            f"search.trials={trials}",
            f"paths.outputs={folder / 'outputs'}",
        ),
        *([f"search.storage={storage}"] if storage else []),
        *others,
    ]


def open_study(folder: Path, storage: str | None, trials: int, *others: str) -> SearchStudy:
    """Open the study as `lightexp search` does."""
    spec = StudySpec(list_overrides(folder, storage, trials, *others), [str(CONF)])
    prepared = prepare_study(spec)
    report = partial(print, file=sys.stderr)  # also that the server has gone, which is stopped first
    return SearchStudy(spec, prepared.space, spec.folder, report, prepared.identity)


def environment() -> dict[str, str]:
    """Return the environment of a command that runs such a study."""
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(BENCHMARKS)]))
    return {**os.environ, "PYTHONPATH": path}


class _LineCollector(BaseJournalBackend):
    """A journal in memory."""

    def __init__(self) -> None:
        self.logs: list[dict[str, Any]] = []

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        yield from self.logs[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self.logs += logs


def make_trials(study: SearchStudy, like: FrozenTrial, count: int) -> list[FrozenTrial]:
    """Return finished trials at random places, with the attributes of one that the study has run."""
    draw, trials, start = random.Random(0), [], datetime.now() - timedelta(days=1)
    for number in range(len(study.trials), count):
        params = {p.name: draw.choice(range(50)) / 50 for p in study.space.parameters}
        values = _constant.compute_metrics({name.rpartition(".")[2]: value for name, value in params.items()})
        outcome = {**like.user_attrs["outcome"], "varied": [f"{name}={value}" for name, value in params.items()]}
        outcome["metrics"] = {**outcome["metrics"], "constant/error": values[0], "constant/cost": values[1]}
        trial = optuna.create_trial(
            values=values,
            params=params,
            distributions={p.name: p.distribution for p in study.space.parameters},
            user_attrs={"outcome": outcome},
            constraints={c.text: c.compute_violation(outcome["metrics"], {}) for c in study.spec.constraints},
        )
        trial.number, trial.datetime_start = number, start + timedelta(seconds=number)
        trial.datetime_complete = trial.datetime_start + timedelta(seconds=1)
        trials.append(trial)
    return trials


def fill_journal(path: Path, trials: Sequence[FrozenTrial]) -> None:
    """Append finished trials to a study's journal, by the same operations as if they had been run."""
    collector = _LineCollector()
    storage = JournalStorage(collector)
    study = storage.create_new_study([optuna.study.StudyDirection.MINIMIZE] * 2, STUDY)
    for _ in range(trials[0].number):
        storage.create_new_trial(study)
    skipped = len(collector.logs)
    for trial in trials:
        trial_id = storage.create_new_trial(study)
        for name, value in trial.params.items():
            distribution = trial.distributions[name]
            storage.set_trial_param(trial_id, name, distribution.to_internal_repr(value), distribution)
        for name, value in trial.system_attrs.items():
            storage.set_trial_system_attr(trial_id, name, value)
        for name, value in trial.user_attrs.items():
            storage.set_trial_user_attr(trial_id, name, value)
        storage.set_trial_state_values(trial_id, TrialState.COMPLETE, trial.values)
    with path.open("a", encoding="utf-8") as file:
        file.writelines(encode_json(log, separators=(",", ":")) + "\n" for log in collector.logs[skipped:])


def fill_database(url: str, trials: Sequence[FrozenTrial]) -> None:
    """Insert finished trials into a study's database."""
    import sqlalchemy

    engine = sqlalchemy.create_engine(url.replace("postgresql", "postgresql+psycopg", 1))
    tables = sqlalchemy.MetaData()
    tables.reflect(engine)
    rows: dict[str, list[dict[str, Any]]] = {}
    with engine.begin() as connection:
        last = connection.execute(sqlalchemy.text("select max(trial_id), max(study_id) from trials")).one()
        for trial_id, trial in enumerate(trials, start=last[0] + 1):
            head = {"trial_id": trial_id, "number": trial.number, "study_id": last[1], "state": "COMPLETE"}
            times = {"datetime_start": trial.datetime_start, "datetime_complete": trial.datetime_complete}
            rows.setdefault("trials", []).append(head | times)
            for name, value in trial.params.items():
                distribution = trial.distributions[name]
                text = optuna.distributions.distribution_to_json(distribution)
                row = {
                    "param_name": name,
                    "param_value": distribution.to_internal_repr(value),
                    "distribution_json": text,
                }
                rows.setdefault("trial_params", []).append({"trial_id": trial_id, **row})
            for objective, value in enumerate(trial.values):
                row = {"objective": objective, "value": value, "value_type": "FINITE"}
                rows.setdefault("trial_values", []).append({"trial_id": trial_id, **row})
            for table, attributes in (("user", trial.user_attrs), ("system", trial.system_attrs)):
                for key, value in attributes.items():
                    row = {"trial_id": trial_id, "key": key, "value_json": encode_json(value)}
                    rows.setdefault(f"trial_{table}_attributes", []).append(row)
        for table, entries in rows.items():
            connection.execute(tables.tables[table].insert(), entries)
        next_id = sqlalchemy.text("select setval('trials_trial_id_seq', (select max(trial_id) from trials))")
        connection.execute(next_id)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sqlalchemy.text("analyze"))
    engine.dispose()


@contextmanager
def start_postgres(folder: Path, connections: int = 100) -> Iterator[tuple[str, int]]:
    """Run a PostgreSQL server of its default settings in a folder; yields its URL and its process id."""
    programs = require_postgresql()
    run_as = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    data = folder / "postgres"
    data.mkdir()
    if run_as:
        for path in (folder, data):
            shutil.chown(path, "postgres")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def run(program: str, *arguments: str) -> None:
        quiet = subprocess.DEVNULL
        subprocess.run([*run_as, programs / program, "-D", data, *arguments], check=True, stdout=quiet, cwd=folder)

    run("initdb", "-U", "tester", "-A", "trust", "--no-sync")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c max_connections={connections}"
    run("pg_ctl", "-l", str(data / "log"), "-w", "-o", options, "start")
    try:
        process = int((data / "postmaster.pid").read_text(encoding="utf-8").splitlines()[0])
        yield f"postgresql://tester@127.0.0.1:{port}/postgres", process
    finally:
        run("pg_ctl", "-w", "-m", "immediate", "stop")
