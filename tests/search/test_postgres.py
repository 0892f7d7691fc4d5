"""Studies of two hosts on a real PostgreSQL server, which is stopped and started."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import psycopg
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
from lightexp.search.study import SearchStudy
from lightexp.search.study_spec import StudySpec
from lightexp.search.trial_history import TrialHistory
from tests.search.launchers import use_launcher
from tests.search.postgres_server import CuttingProxy, Server
from tests.search.studies import COMMAND, SECONDS, Studies, wait_until
from tests.search.test_storage import check_exclusive_blocks_do_not_overlap, check_lock_dies_with_owner
from tests.system_packages import require_postgresql


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


def test_nan_and_infinite_values_are_stored(server: Server, tmp_path: Path) -> None:
    storage, _ = open_storage(server.url, tmp_path, "special", print)
    study_id = storage.create_new_study([StudyDirection.MINIMIZE] * 4, "special")
    trial_id = storage.create_new_trial(study_id)
    values = [float("nan"), float("inf"), float("-inf"), 0.5]
    storage.write_trial(trial_id, TrialChanges(state=TrialState.COMPLETE, values=values))
    assert repr(storage.get_all_trials(study_id)[0].values) == "[nan, inf, -inf, 0.5]"
    assert repr(list_trials(server, "special")[0].values) == "[nan, inf, -inf, 0.5]"


def end_connections(server: Server, *statements: str) -> None:
    """End all connections to the server, as a crash does; execute statements before."""
    others = "pid <> pg_backend_pid() and backend_type = 'client backend'"
    with psycopg.connect(server.url, autocommit=True) as connection:
        for statement in (*statements, f"select pg_terminate_backend(pid) from pg_stat_activity where {others}"):
            connection.execute(statement)


def test_trial_lost_in_a_crash_is_proposed_again(
    server: Server, make_spec: Callable[..., StudySpec], tmp_path: Path
) -> None:
    spec = make_spec("search.study=lost", "search.corners=[]", "search.trials=2", f"search.storage={server.url}")
    space, has_crashed = spec.make_space({}), []
    propose = space.propose

    def propose_in_a_crash(trial: Any) -> Any:
        values = propose(trial)
        if trial.number == 1 and not has_crashed:
            has_crashed.append(True)
            assert len(other.trials) == 2  # another process has seen it
            end_connections(server, "delete from trials where trial_id = (select max(trial_id) from trials)")
        return values

    reports: list[str] = []
    study = SearchStudy(spec, space, tmp_path, reports.append, spec.compute_identity(space, {}))
    other = SearchStudy(spec, spec.make_space({}), tmp_path, print)
    assert study.ask() is not None
    study.fail(0, "it broke")
    object.__setattr__(space, "propose", propose_in_a_crash)
    second = study.ask()
    assert second is not None
    assert (has_crashed, second.trial.number) == ([True], 1)
    for known in (study, other):
        assert [trial.state for trial in known.trials] == [TrialState.FAIL, TrialState.RUNNING]
        assert known.trials[1].params == second.trial.params
        assert known.read_history().started == 2
    assert other.ask() is None  # the trial is locked
    study.fail(1, "it broke")
    assert other.trials[1].state is TrialState.FAIL
    assert len(reports) == 2


def test_exclusive_block_stays_so_through_an_outage(server: Server, tmp_path: Path) -> None:
    locks, others = (open_storage(server.url, tmp_path, "exclusive", print)[1] for _ in range(2))
    entered = threading.Event()

    def enter() -> None:
        with others.exclusive():
            entered.set()

    with locks.exclusive():
        end_connections(server)
        assert locks.acquire(1) and others.acquire(2)  # after the outage
        thread = threading.Thread(target=enter)
        thread.start()
        assert not entered.wait(0.5)
    assert entered.wait(60)
    thread.join()


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


def test_missing_database_is_answered_with_how_to_create_it(server: Server, tmp_path: Path) -> None:
    with pytest.raises(
        BadInput, match=r"database \"absent\" does not exist\. Create the database once: createdb NAME\.$"
    ):
        open_storage(server.url.removesuffix("postgres") + "absent", tmp_path, "study", print)


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
