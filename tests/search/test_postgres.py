"""A study of two hosts on a real PostgreSQL, which goes away and comes back."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
import sqlalchemy
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import OperationalError, PendingRollbackError
from sqlalchemy.orm import Session

from lightexp.search.storage import is_outage
from tests.search.launchers import launcher
from tests.search.studies import COMMAND, SECONDS, Studies, until
from tests.search.test_storage import check_exclusive_blocks_do_not_overlap, check_lock_dies_with_owner
from tests.system_packages import require_postgresql


class Server:
    """A PostgreSQL server of the tests' own."""

    def __init__(self, folder: Path, programs: Path) -> None:
        """Sets up its data; the server refuses to run as root."""
        self._folder, self._programs = folder, programs
        self._as = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
        if self._as:
            shutil.chown(folder, "postgres")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"postgresql://tester@127.0.0.1:{self.port}/postgres"
        self._do("initdb", "-D", str(folder / "data"), "-U", "tester", "-A", "trust", "--no-sync")

    def start(self) -> None:
        """Starts it and waits until it answers."""
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
        log = str(self._folder / "log")
        self._do("pg_ctl", "-D", str(self._folder / "data"), "-l", log, "-w", "-o", options, "start")

    def stop(self) -> None:
        """Stops it as a crash does."""
        self._do("pg_ctl", "-D", str(self._folder / "data"), "-w", "-m", "immediate", "stop")

    def _do(self, program: str, *words: str) -> None:
        command = [*self._as, str(self._programs / program), *words]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=self._folder)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    programs = require_postgresql()
    with tempfile.TemporaryDirectory(prefix="lightexp-postgres-") as folder:
        made = Server(Path(folder), programs)
        made.start()
        try:
            yield made
        finally:
            made.stop()


def trials(server: Server, name: str = "tried") -> list[FrozenTrial]:
    url = server.url.replace("postgresql:", "postgresql+psycopg:")
    storage = optuna.storages.RDBStorage(url)
    try:
        return optuna.load_study(study_name=name, storage=storage).trials
    except KeyError:
        return []
    finally:
        storage.remove_session()
        storage.engine.dispose()


def test_postgres_lock_dies_with_its_owner(server: Server, tmp_path: Path) -> None:
    check_lock_dies_with_owner(server.url, tmp_path)


def test_exclusive_postgres_blocks_do_not_overlap(server: Server, tmp_path: Path) -> None:
    check_exclusive_blocks_do_not_overlap(server.url, tmp_path)


def test_connection_lost_in_a_transaction_is_an_outage(server: Server) -> None:
    engine = sqlalchemy.create_engine(server.url.replace("postgresql:", "postgresql+psycopg:"))
    words = sqlalchemy.text("select pg_terminate_backend(pg_backend_pid())")
    with Session(engine) as session:
        for error in (OperationalError, PendingRollbackError):  # as an Optuna storage meets them
            with pytest.raises(error) as lost:
                session.execute(words)
            assert is_outage(lost.value)
            with pytest.raises(StorageInternalError) as wrapped:
                raise StorageInternalError("the commit") from lost.value
            assert is_outage(wrapped.value)
    engine.dispose()


def test_two_hosts_share_a_study_through_an_outage(server: Server, tmp_path: Path) -> None:
    hosts = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        hosts.append(Studies(tmp_path / name))
    words = [f"search.storage={server.url}", "search.trials=8", f"{SECONDS}=1.5"]
    processes = [host.start(*words) for host in hosts]
    until(lambda: any(t.state is TrialState.COMPLETE for t in trials(server)), processes[0])
    server.stop()
    until(lambda: "has gone away" in processes[0].stderr.readline(), processes[0])
    server.start()
    ends = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], ends
    assert "Traceback" not in ends[0][1] + ends[1][1]
    found = trials(server)
    assert [t.number for t in found] == list(range(len(found)))
    assert [t.state for t in found] == [TrialState.COMPLETE] * 8
    folders = {Path(t.user_attrs["outcome"]["folder"]).relative_to(tmp_path).parts[0] for t in found}
    assert folders == {"one", "other"}
    for host in hosts:
        assert len(host.front()["front"]) == 8  # either reports the whole front


def test_launcher_jobs_share_a_study_and_dashboard_shows_it(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna_dashboard")
    study, place = Studies(tmp_path), [f"search.storage={server.url}", "search.study=launched"]
    with launcher("joblib", monkeypatch) as chosen:
        done = study.run(*place, *chosen, "search.trials=4", "search.workers=2", f"{SECONDS}=0.5")
    assert done.returncode == 0, done.stderr
    assert [t.state for t in trials(server, "launched")] == [TrialState.COMPLETE] * 4
    words = [str(COMMAND), "ui", "--optuna", "--port", "0", *place]
    shown = subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    try:
        assert shown.stdout is not None
        address = shown.stdout.readline().partition("  ")[0]
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{address}/api/studies", timeout=60) as answer:
            assert "launched" in [found["study_name"] for found in json.load(answer)["study_summaries"]]
    finally:
        shown.terminate()
        shown.communicate(timeout=60)
