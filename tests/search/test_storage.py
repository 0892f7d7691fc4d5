"""Storage of studies: journals that a dying process leaves, outages, and trial locks that die with their owners."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from lightexp.core.errors import BadInput
from lightexp.execution.outage import OutageReporter
from lightexp.search.storage import JOURNAL, RetryingStorage, open_storage

HOLDER = """
import sys, time
from pathlib import Path
from lightexp.search.storage import open_storage
_, locks = open_storage({address!r}, Path({folder!r}), "s", print)
print(locks.acquire(3), flush=True)
time.sleep(1000)
"""


def start_holder(address: str | None, folder: Path) -> subprocess.Popen[str]:
    """Start a process that locks trial 3 and sleeps."""
    program = HOLDER.format(address=address, folder=str(folder))
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "True\n"
    return process


def check_lock_dies_with_owner(address: str | None, folder: Path) -> None:
    """Check that a lock is taken while its owner lives, and free once that has been killed."""
    _, locks = open_storage(address, folder, "s", print)
    process = start_holder(address, folder)
    assert not locks.is_free(3)
    assert not locks.acquire(3)
    assert locks.acquire(4)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    end = time.monotonic() + 30
    while not locks.acquire(3):
        assert time.monotonic() < end
        time.sleep(0.05)
    locks.release(3)
    locks.release(4)


def check_exclusive_blocks_do_not_overlap(address: str | None, folder: Path) -> None:
    """Check that one thread at a time is in an exclusive block."""
    steps = []

    def work() -> None:
        _, locks = open_storage(address, folder, "s", print)
        for _ in range(5):
            with locks.exclusive():
                steps.append("enter")
                time.sleep(0.01)
                steps.append("leave")

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert steps == ["enter", "leave"] * 15


def test_file_lock_dies_with_its_owner(tmp_path: Path) -> None:
    check_lock_dies_with_owner(None, tmp_path)


def test_exclusive_file_blocks_do_not_overlap(tmp_path: Path) -> None:
    check_exclusive_blocks_do_not_overlap(None, tmp_path)


@pytest.mark.parametrize("rest", [b'{"op_code":5,"worker', b"\x00\x00", b'{"op_code":4}'])
def test_journal_drops_an_unfinished_last_line(tmp_path: Path, rest: bytes) -> None:
    study = optuna.create_study(storage=open_storage(None, tmp_path, "s", print)[0], study_name="s")
    study.tell(study.ask(), 1.0)
    with (tmp_path / JOURNAL).open("ab") as file:
        file.write(rest)
    study = optuna.load_study(storage=open_storage(None, tmp_path, "s", print)[0], study_name="s")
    study.tell(study.ask(), 2.0)
    with (tmp_path / JOURNAL).open("ab") as file:  # while the study is open
        file.write(rest)
    study.tell(study.ask(), 3.0)
    study = optuna.load_study(storage=open_storage(None, tmp_path, "s", print)[0], study_name="s")
    assert [t.value for t in study.trials] == [1.0, 2.0, 3.0]


class AnswerLosingStorage(InMemoryStorage):
    """A storage that writes a trial's end the first time but loses the answer."""

    is_answer_lost = False

    def set_trial_state_values(self, *args: Any, **options: Any) -> bool:
        answer = super().set_trial_state_values(*args, **options)
        if not self.is_answer_lost:
            self.is_answer_lost = True
            raise StorageInternalError("invalid data in the commit") from OSError("the connection was reset")
        return answer


def test_retrying_storage_counts_a_lost_answer_once() -> None:
    reports: list[str] = []
    storage = RetryingStorage(AnswerLosingStorage(), OutageReporter("The study's storage", reports.append))
    study = optuna.create_study(storage=storage)
    trial = study.ask()
    study.tell(trial, 0.5)
    assert [t.values for t in study.trials] == [[0.5]]
    assert reports == [
        "The study's storage has gone away (the connection was reset). Waiting for it.",
        "The study's storage is back.",
    ]
    trial_id = storage.get_trial_id_from_study_id_trial_number(storage.get_study_id_from_name(study.study_name), 0)
    with pytest.raises(UpdateFinishedTrialError):  # no answer was lost here
        storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [0.7])


def test_journal_is_read_by_optuna(tmp_path: Path) -> None:
    study = optuna.create_study(storage=open_storage(None, tmp_path, "s", print)[0], study_name="s")
    study.tell(study.ask(), 1.0)
    journal = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(tmp_path / JOURNAL)))
    assert [t.value for t in optuna.load_study(storage=journal, study_name="s").trials] == [1.0]


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("sqlite:///study.db", "must be a journal file or postgresql://HOST/DATABASE"),
        ("postgresql://me:secret@localhost/studies", "Set PGPASSWORD instead"),
        ("postgresql://127.0.0.1:1/studies", "cannot be reached"),
        ("/proc/version/journal.log", "cannot be used"),
        ("/tmp", "is a folder"),
        ("http://[x", "cannot be read: Invalid IPv6 URL"),
    ],
)
def test_unusable_storage_is_refused(tmp_path: Path, address: str, message: str) -> None:
    with pytest.raises(BadInput, match=r"search\.storage") as refused:
        open_storage(address, tmp_path, "s", print)
    assert message in str(refused.value)
    assert "secret" not in str(refused.value)


def test_file_that_is_no_journal_is_left_unchanged(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("a line\nanother")
    with pytest.raises(BadInput, match=r"notes\.txt cannot be used: it begins with"):
        open_storage(str(file), tmp_path / "study", "s", print)
    assert (file.read_text(), list(tmp_path.iterdir())) == ("a line\nanother", [file])
