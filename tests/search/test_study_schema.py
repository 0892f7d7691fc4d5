"""Journals that lightexp did not write: each is used, or refused in one line before a trial is started."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lightexp.core.errors import BadInput
from lightexp.search.export_front import build_front_table, list_front_points
from lightexp.search.storage import JOURNAL
from lightexp.search.study import SearchStudy
from lightexp.search.study_spec import StudySpec
from lightexp.search.study_status import compute_status
from tests.fuzz import mutate
from tests.search.test_study import ask, make_record

OpenJournal = Callable[[], SearchStudy]


@pytest.fixture
def open_journal(make_spec: Callable[..., StudySpec], tmp_path: Path) -> OpenJournal:
    """Open the study whose journal is in the test's folder."""
    spec = make_spec("search.objectives=[accuracy/val,size/file_bytes]", "search.study=s", "search.trials=6")
    space = spec.make_space({})
    identity = spec.compute_identity(space, {"train": "0"})
    return lambda: SearchStudy(spec, space, tmp_path, print, identity)


def write_study(open_journal: OpenJournal) -> None:
    """Run three trials and fail one."""
    study = open_journal()
    for accuracy, size in ((0.8, 500), (0.9, 600), (0.7, 100)):
        study.finish(ask(study), make_record(accuracy, size))
    study.fail(ask(study).trial.number, "a reason")


def use(study: SearchStudy) -> None:
    """Show the front and run a trial."""
    status = compute_status(study.trials, study.spec.objectives)
    build_front_table(study.spec, status, list_front_points(status))
    if proposal := study.ask():
        study.finish(proposal, make_record(0.5, 500))


def test_mutants_of_a_journal_are_used_or_refused(open_journal: OpenJournal, tmp_path: Path, mutants: int) -> None:
    write_study(open_journal)
    journal, refused = tmp_path / JOURNAL, 0
    lines = {str(number): json.loads(line) for number, line in enumerate(journal.read_text().splitlines())}
    for change, mutant in mutate(lines, mutants // 10):
        journal.write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in mutant.values()))
        try:
            use(open_journal())
        except BadInput as error:
            refused += len(str(error)) < 600
        except Exception as error:
            raise AssertionError(change) from error
    assert refused


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('"metrics":{', '"metrics":{"x":"y",', "trial 0: outcome.metrics.x: Input should be a valid number"),
        ('"values":[0.8,500.0]', '"values":[0.8]', "trial 0: values [0.8]"),
        ('"state":1,"values":[0.8', '"state":1,"values":[NaN', "trial 0: values [nan, 500.0]"),
        ('"outcome":', '"income":', "trial 0: values [0.8, 500.0]"),
        ('{"op_code":6', '{"op_code":66', "cannot be used: AssertionError"),
    ],
)  # fmt: skip
def test_wrong_entry_of_a_journal_is_named(
    before: str, after: str, message: str, open_journal: OpenJournal, tmp_path: Path
) -> None:
    write_study(open_journal)
    journal = tmp_path / JOURNAL
    text = journal.read_text()
    assert before in text
    journal.write_text(text.replace(before, after, 1))
    with pytest.raises(BadInput, match=r"^search\.(study|storage): ") as refused:
        open_journal()
    assert message in str(refused.value)
