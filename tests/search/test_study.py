"""The study's ask-and-tell interface in one process: seed trials, resuming, failures, samplers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.trial import FrozenTrial, TrialState

from lightexp.core.errors import BadInput
from lightexp.core.protocols import Metric
from lightexp.core.record import Record, StageRecord
from lightexp.search import trial_history
from lightexp.search.proposal import Proposal
from lightexp.search.samplers import make_sampler
from lightexp.search.storage import open_storage
from lightexp.search.study import SearchStudy
from lightexp.search.study_setup import SEED_TRIAL
from lightexp.search.study_spec import StudySpec
from lightexp.search.study_status import compute_status

OpenStudy = Callable[..., SearchStudy]
SPARSITY = "pipeline.stages.prune.sparsity"


@pytest.fixture
def open_study(make_spec: Callable[..., StudySpec], tmp_path: Path) -> OpenStudy:
    """Open the study that overrides describe, always on the same storage."""

    def open_with(*overrides: str) -> SearchStudy:
        spec = make_spec("search.objectives=[accuracy/val,size/file_bytes]", "search.study=s", *overrides)
        spec.check()
        space = spec.make_space({})
        return SearchStudy(spec, space, tmp_path / "study", print, spec.compute_identity(space, {"train": "0"}))

    return open_with


def make_record(accuracy: float, size: float) -> Record:
    """Make a run's record with a control of 1,000 bytes and 90% accuracy."""
    control = [Metric("accuracy/val", 0.9), Metric("size/file_bytes", 1_000)]
    stages = [
        StageRecord("train", "0", False, 1.0, control),
        StageRecord("quantize", "1", False, 1.0, [Metric("accuracy/val", accuracy), Metric("size/file_bytes", size)]),
    ]
    facts = {"command": "", "config": {}, "varied": [], "environment": {}, "started": 0.0, "control": "train"}
    return Record("r", "run", stages=stages, status="done", dataset={"classes": 2}, **facts)


def ask(study: SearchStudy) -> Proposal:
    """Return a proposal, which must exist."""
    proposal = study.ask()
    assert proposal is not None
    return proposal


def read_sparsity(proposal: Proposal) -> float:
    """Return the sparsity that a proposal sets, or 0.5 where it does not prune."""
    return float(proposal.config.pipeline.stages.get("prune", {}).get("sparsity", 0.5))


def test_ask_returns_seed_trials_then_proposals(open_study: OpenStudy) -> None:
    study = open_study("search.trials=5")
    names = []
    while proposal := study.ask():
        names.append(proposal.varied[0])
        study.finish(proposal, make_record(0.8, 500))
    assert names[:3] == ["corner=recipe", "corner=int8", "corner=strongest"]
    assert [name.partition("=")[0] for name in names[3:]] == [SPARSITY] * 2


def test_study_that_was_half_created_has_each_seed_trial_once(open_study: OpenStudy, tmp_path: Path) -> None:
    storage, _ = open_storage(None, tmp_path / "study", "s", print)
    killed = optuna.create_study(storage=storage, study_name="s", directions=["maximize", "minimize"])
    killed.enqueue_trial({}, user_attrs={SEED_TRIAL: "recipe"})
    study = open_study()
    assert [t.user_attrs[SEED_TRIAL] for t in study.trials] == ["recipe", "int8", "strongest"]


def test_resumed_study_proposes_what_an_uninterrupted_one_does(open_study: OpenStudy) -> None:
    uninterrupted = open_study("search.trials=8", "search.study=uninterrupted")
    while proposal := uninterrupted.ask():
        uninterrupted.finish(proposal, make_record(read_sparsity(proposal), 500))
    for _ in range(8):
        resumed = open_study("search.trials=8")  # for every trial, as by a process that died
        proposal = ask(resumed)
        resumed.finish(proposal, make_record(read_sparsity(proposal), 500))
    assert [t.params for t in resumed.trials] == [t.params for t in uninterrupted.trials]
    assert resumed.ask() is None


def test_more_trials_continue_the_numbering(open_study: OpenStudy) -> None:
    study = open_study("search.trials=1")
    study.finish(ask(study), make_record(0.8, 500))
    assert study.ask() is None
    assert ask(open_study("search.trials=2")).trial.number == 1


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["seed=1"], "was made with seed=0. This command's is 1."),
        (["model=lenet5"], "was made with model.type="),
        (["search.objectives=[accuracy/val]"], "was made with search.objectives="),
        (["search.constraints=['size/file_bytes <= 1 KiB']"], "was made with search.constraints="),
        ([f"{SPARSITY}=interval(0.5,0.9)"], f"was made with search.space.{SPARSITY}="),
        (["search.sampler=random"], "was made with search.sampler="),
        (["search.resume=false"], "exists already, with 1 trials"),
    ],
)
def test_other_study_of_that_name_is_refused(open_study: OpenStudy, overrides: list[str], expected: str) -> None:
    study = open_study()
    study.finish(ask(study), make_record(0.8, 500))
    with pytest.raises(BadInput, match=r"search\.study: 's'") as refused:
        open_study(*overrides)
    assert expected in str(refused.value)


def test_settings_that_change_no_result_may_change(open_study: OpenStudy) -> None:
    study = open_study()
    study.finish(ask(study), make_record(0.8, 500))
    assert ask(open_study("search.trials=99", "search.workers=2", "runtime.threads=1")).trial.number == 1


def test_failures_in_a_row_end_a_study(open_study: OpenStudy) -> None:
    study = open_study("search.max_failures=2")
    for fails in (True, True, False, True, True):  # the success between them starts the count again
        proposal = ask(study)
        if fails:
            study.fail(proposal.trial.number, "it broke")
        else:
            study.finish(proposal, make_record(0.8, 500))
    study.fail(ask(study).trial.number, "it broke")
    assert study.ask() is None
    assert [t.state for t in study.trials].count(TrialState.FAIL) == 5


def test_trial_that_two_processes_run_counts_once(open_study: OpenStudy) -> None:
    study = open_study()
    proposal = ask(study)
    study.finish(proposal, make_record(0.8, 500))
    study.fail(proposal.trial.number, "it overran")
    study.finish(proposal, make_record(0.1, 100))
    assert [(t.state, t.values) for t in study.trials if t.values] == [(TrialState.COMPLETE, [0.8, 500.0])]


def test_compute_status_counts_feasible_trials(open_study: OpenStudy) -> None:
    study = open_study("search.constraints=['accuracy/val >= control - 0.2']")
    for accuracy, size in [(0.8, 500), (0.6, 250), (0.85, 1_000), (0.75, 500), (0.8, 500)]:
        study.finish(ask(study), make_record(accuracy, size))
    status = compute_status(study.trials, study.spec.objectives)
    assert [t.number for t in status.feasible] == [0, 2, 3, 4]
    assert [t.number for t in status.front] == [2, 0]
    assert status.best is not None
    assert status.best.number == 2
    # A halving of the bytes times 0.3, from the error 0.5 of guessing to 0.2; the control's own bytes add nothing.
    assert status.history == pytest.approx([0.3] * 5)
    assert study.compute_importance() == {}  # of too few trials


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random", "qmc"])
def test_samplers_repeat_only_when_all_was_tried(open_study: OpenStudy, sampler: str) -> None:
    overrides = [f"search.sampler={sampler}", f"{SPARSITY}=choice(0.5,0.7)", "search.corners=[]"]
    study = open_study(*overrides, "search.trials=15", "pipeline.stages.prune=choice(on,off)")
    proposal = ask(study)
    while proposal:  # one trial always runs
        number = proposal.trial.number
        following = study.ask()
        study.finish(proposal, make_record(0.5 + number / 100, 1_000 - number))
        proposal = following
    assert [t.state for t in study.trials] == [TrialState.COMPLETE] * 15
    configurations = [tuple(t.params.items()) for t in study.trials]
    count = 2 * 3 * 2 + 2  # sparsities, allocations and schemes, or the schemes of what is not pruned
    assert len(set(configurations)) == len(set(configurations[:14])) == 14 == count


def test_tpe_proposes_distinct_values_of_conditional_parameters(open_study: OpenStudy) -> None:
    study = open_study("search.trials=14", "pipeline.stages.prune=choice(on,off)")  # sparsity applies to some trials
    while proposal := study.ask():
        number = proposal.trial.number
        study.finish(proposal, make_record(0.5 + (7 * number % 5) / 100, 1_000 - number))
    sparsities = [t.params[SPARSITY] for t in study.trials if SPARSITY in t.params]
    assert 1 < len(set(sparsities)) == len(sparsities) < 14
    assert study.compute_importance().keys() == {"accuracy/val", "size/file_bytes"}


def test_grid_is_tried_once_and_needs_steps(open_study: OpenStudy) -> None:
    overrides = ["search.sampler=grid", f"{SPARSITY}=range(0.5,0.8,0.1)", "search.corners=[]", "search.trials=30"]
    study = open_study(*overrides)
    proposals = list(iter(study.ask, None))  # all of them run at once
    assert len({tuple(p.trial.params.values()) for p in proposals}) == len(proposals) == 3 * 3 * 2
    for proposal in proposals:  # the allocation decides what is bad, the scheme what is good
        _, allocation, scheme = proposal.trial.params.values()
        best = 0.9 if scheme == "int8" else 0.5
        study.finish(proposal, make_record(0.1 if allocation == "uniform" else best, 500))
    importance = {name.rpartition(".")[2]: value for name, value in study.compute_importance()["accuracy/val"].items()}
    assert importance["scheme"] > importance["allocation"] > importance["sparsity"]
    with pytest.raises(BadInput, match="grid needs choices or steps"):
        open_study("search.sampler=grid", "search.study=other").ask()
    names = ("prune.sparsity", "train.learning_rate")
    ranges = [f"pipeline.stages.{name}=range(0.001,0.9,0.001)" for name in names]
    with pytest.raises(BadInput, match=r"at most 100,000 points. This grid has [1-9],\d{3},\d{3}, from \d settings"):
        open_study("search.sampler=grid", "search.study=large", *ranges).ask()


@pytest.mark.parametrize("sampler", ["grid", "tpe", "nsga2", "random", "qmc"])
def test_trial_killed_while_proposed_repeats_nothing(open_study: OpenStudy, tmp_path: Path, sampler: str) -> None:
    overrides = [f"search.sampler={sampler}", f"{SPARSITY}=choice(0.5,0.6,0.7)", "search.corners=[]"]
    overrides += ["pipeline.stages.quantize.scheme=choice(int8,float16,dynamic)", "search.trials=27"]
    study = open_study(*overrides)
    storage, _ = open_storage(None, tmp_path / "study", "s", print)
    killed = optuna.load_study(study_name="s", storage=storage)
    for number in range(27):
        if number % 4 == 0:  # a process dies before it has asked the sampler
            storage.create_new_trial(storage.get_study_id_from_name("s"))
            study = open_study(*overrides)
        elif number % 2:  # a process dies after 0, 1 or 2 parameters
            killed.sampler = make_sampler(study.spec, study.space, number, study.read_history(), {})
            trial = killed.ask()
            for parameter in study.space.parameters[: number % 3]:
                parameter.suggest(trial)
        proposal = ask(study)
        assert proposal.trial.number == number
        study.finish(proposal, make_record(0.5 + number / 100, 1_000 - number))
    assert study.ask() is None
    assert len({tuple(sorted(t.params.items())) for t in study.trials}) == 27


def test_dashboard_finds_names_and_readable_attributes(open_study: OpenStudy, tmp_path: Path) -> None:
    study = open_study("search.constraints=['size/file_bytes <= 400']", "search.corners=[]")
    study.finish(ask(study), make_record(0.8, 500))
    study.fail(ask(study).trial.number, "it broke")
    storage, _ = open_storage(None, tmp_path / "study", "s", print)
    loaded = optuna.load_study(study_name="s", storage=storage)
    assert loaded.metric_names == ["accuracy/val", "size/file_bytes"]
    stopped, failed = loaded.trials[:2]
    assert stopped.user_attrs["beyond"] == "size/file_bytes <= 400"
    assert failed.user_attrs["reason"] == "it broke"


def test_trial_that_only_guesses_is_stored_as_such(open_study: OpenStudy) -> None:
    study = open_study()
    record = make_record(0.5, 100)
    record.stages[-1].notes["accuracy/val"] = "the file is no better than guessing"
    study.finish(ask(study), make_record(0.8, 500))
    study.finish(ask(study), record)
    status = compute_status(study.trials, study.spec.objectives)
    assert [t.number for t in status.chance] == [1]
    assert [t.number for t in status.front] == [0]


def test_late_proposal_reads_the_study_twice_and_samples_few(
    open_study: OpenStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial_history, "MAX_RECENT", 15)
    reads, sampled = [], []
    read_all, sample = JournalStorage.get_all_trials, trial_history.TrialHistory.sample

    def count_reads(storage: JournalStorage, *arguments: Any, **options: Any) -> list[FrozenTrial]:
        reads.append(len(storage.get_all_studies()))
        return read_all(storage, *arguments, **options)

    def count_sampled(history: trial_history.TrialHistory) -> list[trial_history.SampledTrial]:
        sampled.append(sample(history))
        return sampled[-1]

    study = open_study("search.trials=40")
    monkeypatch.setattr(JournalStorage, "get_all_trials", count_reads)
    monkeypatch.setattr(trial_history.TrialHistory, "sample", count_sampled)
    asked = 0
    while proposal := study.ask():
        asked += 1
        study.finish(proposal, make_record(0.9 - 0.01 * asked, 500 + asked))  # only the first is on the front
    assert (asked, len(reads)) == (40, 2 * 41)
    assert max(map(len, sampled)) <= 15 + 2  # the front, and the trial that is proposed
