"""Studies of two hosts on a real PostgreSQL server, which is stopped and started."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import OperationalError, PendingRollbackError
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from lightexp.core.errors import BadInput
from lightexp.search.proposal_storage import ProposalStorage, TrialChanges
from lightexp.search.storage import is_outage, open_storage
from lightexp.search.trial_history import TrialHistory
from tests.search.launchers import use_launcher
from tests.search.studies import COMMAND, SECONDS, Studies, wait_until
from tests.search.test_storage import check_exclusive_blocks_do_not_overlap, check_lock_dies_with_owner
from tests.system_packages import require_postgresql


class Server:
    """A PostgreSQL server for the tests."""

    def __init__(self, folder: Path, programs: Path) -> None:
        """Initialize the server's data; it refuses to run as root."""
        self._folder, self._programs = folder, programs
        self._run_as = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
        if self._run_as:
            shutil.chown(folder, "postgres")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"postgresql://tester@127.0.0.1:{self.port}/postgres"
        self._run("initdb", "-D", str(folder / "data"), "-U", "tester", "-A", "trust", "--no-sync")

    def start(self) -> None:
        """Start the server and wait until it answers."""
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
        log = str(self._folder / "log")
        self._run("pg_ctl", "-D", str(self._folder / "data"), "-l", log, "-w", "-o", options, "start")

    def stop(self) -> None:
        """Stop the server as a crash does."""
        self._run("pg_ctl", "-D", str(self._folder / "data"), "-w", "-m", "immediate", "stop")

    def _run(self, program: str, *arguments: str) -> None:
        command = [*self._run_as, str(self._programs / program), *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=self._folder)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    programs = require_postgresql()
    with tempfile.TemporaryDirectory(prefix="lightexp-postgres-") as folder:
        server = Server(Path(folder), programs)
        server.start()
        try:
            yield server
        finally:
            server.stop()


class CuttingProxy:
    """A way to the server on which a connection is cut after a number of answers, once.

    Attributes:
        url: The server's address by this way.
        answers_left: Number of answers of all connections before the cut; negative if none is cut.
    """

    def __init__(self, server: Server) -> None:
        """Listen at a free port."""
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._server_port = server.port
        self.url = server.url.replace(f":{server.port}", f":{self._socket.getsockname()[1]}")
        self.answers_left = -1
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Accept no further connection."""
        self._socket.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._socket.accept()
                threading.Thread(target=self._connect, args=[client], daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._server_port)) as server:
            requests = threading.Thread(target=self._pass_on, args=[client, server])
            requests.start()
            self._pass_on(server, client)
            requests.join()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while chunk := source.recv(1 << 16):
                if source.getpeername()[1] == self._server_port:
                    self.answers_left -= 1
                    if self.answers_left == -1:
                        break
                sink.sendall(chunk)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def proxy(server: Server) -> Iterator[CuttingProxy]:
    proxy = CuttingProxy(server)
    yield proxy
    proxy.close()


def list_trials(server: Server, name: str = "tried") -> list[FrozenTrial]:
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


def test_store_lease_dies_with_its_owner(server: Server, tmp_path: Path) -> None:
    key = "ab" + "0" * 62
    code = """
import sys, time
from pathlib import Path
from lightexp.core.store import Store
from lightexp.core.store_sync import connect_store
from lightexp.execution.locks import StoreLeases
from lightexp.search.storage import open_storage
folder, url, key, die = Path(sys.argv[1]), *sys.argv[2:]
leases = StoreLeases(open_storage(url, folder, "leases", print)[1])
store = Store(folder / "store", connect_store(f"file://{folder.parent / 'remote'}", print, leases))
def make(draft):
    print("makes", flush=True)
    if die == "die":
        time.sleep(600)
    return {}
store.ensure(key, "a", make, lambda: print("waits", flush=True))
store.close()
"""

    def start(name: str, die: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", code, str(tmp_path / name), server.url, key, die]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path)

    with start("a", "die") as first:
        assert first.stdout is not None and first.stdout.readline() == "makes\n"
        with start("b", "") as second:
            assert second.stdout is not None and second.stdout.readline() == "waits\n"
            first.kill()
            killed = time.monotonic()
            assert second.communicate(timeout=60)[0] == "makes\n"
            assert time.monotonic() - killed < 30  # a lease in the remote store would last a minute
    assert not (tmp_path / "remote" / "leases").exists()


def test_exclusive_postgres_blocks_do_not_overlap(server: Server, tmp_path: Path) -> None:
    check_exclusive_blocks_do_not_overlap(server.url, tmp_path)


def test_first_free_postgres_lock_is_acquired(server: Server, tmp_path: Path) -> None:
    mine, other = (open_storage(server.url, tmp_path, "first", print)[1] for _ in range(2))
    assert other.acquire(1)
    assert mine.acquire_first([1, 2, 3]) == 2
    assert other.acquire_first([2, 3]) == 3
    assert mine.acquire_first([1, 3]) is None
    assert mine.acquire_first([]) is None
    mine.release(2)
    assert other.is_free(2)


def test_trials_are_stored_and_read_as_optuna_does(server: Server, tmp_path: Path) -> None:
    storage, _ = open_storage(server.url, tmp_path, "stored", print)
    history = TrialHistory([StudyDirection.MINIMIZE] * 2, 10)
    view: Any = ProposalStorage(storage, history)
    study = optuna.create_study(storage=view, study_name="stored", directions=["minimize"] * 2)
    study.enqueue_trial({"x": 0.5}, user_attrs={"corner": "recipe"})
    history.update(storage.get_all_trials(storage.get_study_id_from_name("stored")))
    for values in ([0.5, float("inf")], [1, 2], None):
        with view.collect_changes():
            trial = study.ask()
            trial.suggest_float("x", 0, 1, log=False)
            trial.suggest_categorical("kind", [None, True, 8, "a"])
            trial.set_user_attr("outcome", {"metrics": {"accuracy/val": 0.1 + 0.2}})
        with view.collect_changes():
            trial.set_constraint("size <= 1", -0.25)
            study.tell(trial, values, state=TrialState.COMPLETE if values else TrialState.FAIL)
    study.add_trial(optuna.create_trial(state=TrialState.PRUNED, intermediate_values={1: 0.5, 2: float("nan")}))
    study.ask()
    study.enqueue_trial({"x": 0.1})
    expected = list_trials(server, "stored")
    assert [t.state.name for t in expected] == ["COMPLETE", "COMPLETE", "FAIL", "PRUNED", "RUNNING", "WAITING"]
    fresh, _ = open_storage(server.url, tmp_path, "stored", print)
    for reader in (storage, fresh):
        trials = reader.get_all_trials(reader.get_study_id_from_name("stored"))
        assert list(map(repr, trials)) == list(map(repr, expected))  # a NaN equals no other
    with pytest.raises(UpdateFinishedTrialError):
        storage.write_trial(1, TrialChanges(user_attrs={"late": True}))
    assert "late" not in storage.get_trial(1).user_attrs


def test_connection_lost_in_a_transaction_is_an_outage(server: Server) -> None:
    engine = sqlalchemy.create_engine(server.url.replace("postgresql:", "postgresql+psycopg:"))
    statement = sqlalchemy.text("select pg_terminate_backend(pg_backend_pid())")
    with Session(engine) as session:
        for error in (OperationalError, PendingRollbackError):  # as an Optuna storage raises them
            with pytest.raises(error) as loss:
                session.execute(statement)
            assert is_outage(loss.value)
            with pytest.raises(StorageInternalError) as wrapped:
                raise StorageInternalError("the commit") from loss.value
            assert is_outage(wrapped.value)
    engine.dispose()


def test_connection_lost_anywhere_while_opening_is_an_outage(proxy: CuttingProxy) -> None:
    url = proxy.url.replace("postgresql:", "postgresql+psycopg:")
    errors: list[Exception] = []
    while True:
        proxy.answers_left = len(errors)
        try:
            RDBStorage(url, engine_kwargs={"poolclass": NullPool})
            break
        except Exception as error:
            errors.append(error)
    assert len(errors) > 10
    assert [error for error in errors if not is_outage(error)] == []


def test_storage_is_opened_through_an_outage(proxy: CuttingProxy, tmp_path: Path) -> None:
    reports: list[str] = []
    proxy.answers_left = 15  # the locks are open by then, and the tables are not
    storage, _ = open_storage(proxy.url, tmp_path, "opened", reports.append)
    optuna.create_study(storage=storage, study_name="opened")
    assert [report.partition(" (")[0] for report in reports] == [
        "The study's storage has gone away",
        "The study's storage is back.",
    ]
    proxy.answers_left = 0
    with pytest.raises(BadInput, match="cannot be reached"):
        open_storage(proxy.url, tmp_path, "opened", reports.append)
    proxy.answers_left, reports[:] = 0, []
    open_storage(proxy.url, tmp_path, "opened", reports.append, waits=True)
    assert len(reports) == 2


def test_two_hosts_share_a_study_through_an_outage(server: Server, tmp_path: Path) -> None:
    hosts = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        hosts.append(Studies(tmp_path / name))
    overrides = [f"search.storage={server.url}", "search.trials=8", f"{SECONDS}=1.5"]
    processes = [host.start(*overrides) for host in hosts]
    wait_until(lambda: any(t.state is TrialState.COMPLETE for t in list_trials(server)), processes[0])
    server.stop()
    wait_until(lambda: "has gone away" in processes[0].stderr.readline(), processes[0])
    server.start()
    ends = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], ends
    assert "Traceback" not in ends[0][1] + ends[1][1]
    shared = list_trials(server)
    assert [t.number for t in shared] == list(range(len(shared)))
    assert [t.state for t in shared] == [TrialState.COMPLETE] * 8
    folders = {Path(t.user_attrs["outcome"]["folder"]).relative_to(tmp_path).parts[0] for t in shared}
    assert folders == {"one", "other"}
    for host in hosts:
        assert len(host.read_front()["front"]) == 8  # each exports the complete front


def test_launcher_jobs_share_a_study_and_dashboard_shows_it(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna_dashboard")
    study, overrides = Studies(tmp_path), [f"search.storage={server.url}", "search.study=launched"]
    with use_launcher("joblib", monkeypatch) as selection:
        finished = study.run(*overrides, *selection, "search.trials=4", "search.workers=2", f"{SECONDS}=0.5")
    assert finished.returncode == 0, finished.stderr
    assert [t.state for t in list_trials(server, "launched")] == [TrialState.COMPLETE] * 4
    command = [str(COMMAND), "ui", "--optuna", "--port", "0", *overrides]
    server_process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    try:
        assert server_process.stdout is not None
        address = server_process.stdout.readline().partition("  ")[0]
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{address}/api/studies", timeout=60) as response:
            assert "launched" in [summary["study_name"] for summary in json.load(response)["study_summaries"]]
    finally:
        server_process.terminate()
        server_process.communicate(timeout=60)
