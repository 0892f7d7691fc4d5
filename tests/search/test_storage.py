"""Where studies are kept: journals that a dying process leaves, claims that die with their owners."""

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
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from lightexp.core.errors import BadInput
from lightexp.search.storage import JOURNAL, open_storage

HOLDER = """
import sys, time
from pathlib import Path
from lightexp.search.storage import open_storage
_, claims = open_storage({where!r}, Path({folder!r}), "s", print)
print(claims.acquire(3), flush=True)
time.sleep(1000)
"""


def holder(where: str | None, folder: Path) -> subprocess.Popen[str]:
    """A process that claims trial 3 and sleeps."""
    words = HOLDER.format(where=where, folder=str(folder))
    process = subprocess.Popen([sys.executable, "-c", words], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "True\n"
    return process


def dies_with_its_owner(where: str | None, folder: Path) -> None:
    """Checks that a claim is another's while that lives, and free when it has been killed."""
    _, claims = open_storage(where, folder, "s", print)
    process = holder(where, folder)
    assert not claims.acquire(3)
    assert claims.acquire(4)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    end = time.monotonic() + 30
    while not claims.acquire(3):
        assert time.monotonic() < end
        time.sleep(0.05)
    claims.release(3)
    claims.release(4)


def one_at_a_time(where: str | None, folder: Path) -> None:
    """Checks that two turns do not overlap."""
    inside = []

    def work() -> None:
        _, claims = open_storage(where, folder, "s", print)
        for _ in range(5):
            with claims.exclusive():
                inside.append(1)
                time.sleep(0.01)
                inside.append(-1)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(inside) == 30
    assert inside == [1, -1] * 15


def test_a_file_claim_dies_with_its_owner(tmp_path: Path) -> None:
    dies_with_its_owner(None, tmp_path)


def test_file_turns_are_taken_one_at_a_time(tmp_path: Path) -> None:
    one_at_a_time(None, tmp_path)


@pytest.mark.parametrize("left", [b'{"op_code":5,"worker', b"\x00\x00", b'{"op_code":4}'])
def test_a_line_that_a_dying_process_left_unfinished_is_cut_off(tmp_path: Path, left: bytes) -> None:
    study = optuna.create_study(storage=open_storage(None, tmp_path, "s", print)[0], study_name="s")
    study.tell(study.ask(), 1.0)
    with (tmp_path / JOURNAL).open("ab") as file:
        file.write(left)
    study = optuna.load_study(storage=open_storage(None, tmp_path, "s", print)[0], study_name="s")
    study.tell(study.ask(), 2.0)
    with (tmp_path / JOURNAL).open("ab") as file:  # while the study is open
        file.write(left)
    study.tell(study.ask(), 3.0)
    study = optuna.load_study(storage=open_storage(None, tmp_path, "s", print)[0], study_name="s")
    assert [t.value for t in study.trials] == [1.0, 2.0, 3.0]


def test_a_trials_end_that_is_written_though_its_answer_is_lost_counts_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    kept, _ = open_storage(None, tmp_path, "s", said.append)
    study = optuna.create_study(storage=kept)
    trial = study.ask()
    write, lost = kept._inner.set_trial_state_values, [OSError("the connection was reset")]  # type: ignore[attr-defined]

    def written_but_not_answered(*args: Any, **more: Any) -> bool:
        done = write(*args, **more)
        if lost:
            raise lost.pop()
        return done

    monkeypatch.setattr(kept._inner, "set_trial_state_values", written_but_not_answered)  # type: ignore[attr-defined]
    study.tell(trial, 0.5)
    assert [t.values for t in study.trials] == [[0.5]]
    assert [words.partition(" (")[0] for words in said] == [
        "The study's storage has gone away",
        "The study's storage is back.",
    ]
    with pytest.raises(UpdateFinishedTrialError):  # nothing was lost here
        kept.set_trial_state_values(trial._trial_id, TrialState.COMPLETE, [0.7])


def test_optunas_own_reader_takes_the_journal(tmp_path: Path) -> None:
    study = optuna.create_study(storage=open_storage(None, tmp_path, "s", print)[0], study_name="s")
    study.tell(study.ask(), 1.0)
    kept = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(tmp_path / JOURNAL)))
    assert [t.value for t in optuna.load_study(storage=kept, study_name="s").trials] == [1.0]


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("sqlite:///study.db", "must be a journal file or postgresql://HOST/DATABASE"),
        ("postgresql://me:secret@localhost/studies", "Set PGPASSWORD instead"),
        ("postgresql://127.0.0.1:1/studies", "cannot be reached"),
        ("/proc/version/journal.log", "cannot be used"),
        ("/tmp", "is a folder"),
        ("http://[x", "cannot be read: Invalid IPv6 URL"),
    ],
)
def test_a_storage_that_cannot_be_used_is_refused(tmp_path: Path, where: str, words: str) -> None:
    with pytest.raises(BadInput, match=r"search\.storage") as refused:
        open_storage(where, tmp_path, "s", print)
    assert words in str(refused.value)
    assert "secret" not in str(refused.value)


def test_a_file_that_is_no_journal_is_left_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("a line\nanother")
    with pytest.raises(BadInput, match=r"notes\.txt cannot be used: it begins with"):
        open_storage(str(file), tmp_path / "study", "s", print)
    assert (file.read_text(), list(tmp_path.iterdir())) == ("a line\nanother", [file])
