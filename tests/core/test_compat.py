"""Private attributes of other libraries that lightexp relies on; fails if a library changes one."""

from __future__ import annotations

import inspect
import io
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
import pytest
from hydra import compose, initialize_config_dir
from hydra import main as hydra_main
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import RunMode
from omegaconf import DictConfig
from optuna.exceptions import ExperimentalWarning

from lightexp.core import compat
from lightexp.runner.compose import add_config_dirs
from lightexp.runner.config_dir import PRIMARY_CONFIG, find_config_dir
from lightexp.tracking import stores


def test_list_hydra_flags_marks_those_with_values() -> None:
    flags = compat.list_hydra_flags()
    assert not flags["--multirun", "-m"]
    assert flags["--cfg", "-c"]
    assert not flags["--info", "-i"]


def test_complete_with_hydra_offers_groups_and_choices() -> None:
    with initialize_config_dir(str(find_config_dir()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        assert "dataset=digits" in compat.complete_with_hydra(loader, PRIMARY_CONFIG, "seed=1 dataset=")


@pytest.mark.parametrize("constant_liar", [True, False])
def test_caching_tpe_sampler_equals_optunas(constant_liar: bool) -> None:
    study = optuna.create_study(directions=["maximize", "minimize"])
    cache: compat.ParameterCache = {}
    settings = {"multivariate": True, "group": True, "constant_liar": constant_liar}
    warnings.simplefilter("ignore", ExperimentalWarning)
    suggested: set[str] = set()
    for number in range(24):
        reference = optuna.samplers.TPESampler(seed=number, **settings)
        caching = compat.make_caching_tpe_sampler(cache, seed=number, **settings)
        study.sampler = caching
        trial = study.ask()
        proposals = []
        for sampler in (caching, reference):
            space = sampler.infer_relative_search_space(study, study.trials[number])
            proposals.append(sampler.sample_relative(study, study.trials[number], space))
        assert proposals[0] == proposals[1]
        suggested |= proposals[0].keys()
        prunes = trial.suggest_categorical("prunes", [True, False])
        sparsity = trial.suggest_float("sparsity", 0.5, 0.98) if prunes else 0.0  # not every trial has it
        bits = trial.suggest_int("bits", 2, 8)
        study.tell(trial, [bits - sparsity, 7 * number % 5])
    assert suggested == {"prunes", "sparsity", "bits"}
    assert {number for rows in cache.values() for number in rows} == set(range(23))


def test_study_view_shows_its_trials_and_stores_nothing() -> None:
    study = optuna.create_study(directions=["maximize", "minimize"])
    for number in range(12):
        trial = study.ask()
        sparsity = trial.suggest_float("sparsity", 0.5, 0.98)
        study.tell(trial, [sparsity, 7 * number % 5])
    new = study.ask()
    warnings.simplefilter("ignore", ExperimentalWarning)

    def propose(view: optuna.Study) -> dict[str, Any]:
        sampler = optuna.samplers.TPESampler(seed=0, multivariate=True, group=True, constant_liar=True)
        frozen = study.trials[new.number]
        return sampler.sample_relative(view, frozen, sampler.infer_relative_search_space(view, frozen))

    proposals = [propose(compat.make_study_view(study, trials)) for trials in (study.trials, study.trials[:10])]
    assert study.trials[new.number].system_attrs == {}
    assert proposals[0] == propose(study) != proposals[1]
    assert study.trials[new.number].system_attrs != {}  # Optuna's own


def test_checked_hydra_configs_checks_before_hydra_acts(tmp_path: Path) -> None:
    seen: list[object] = []
    search_path = f"hydra.searchpath=[file://{tmp_path}]"
    with (
        compat.checked_hydra_configs(lambda config, overrides: seen.append((config.seed, overrides)), seen.append),
        initialize_config_dir(str(find_config_dir()), version_base="1.3"),
    ):
        compose(PRIMARY_CONFIG, ["seed=3", search_path])
    assert seen == [[f"file://{tmp_path}"], (3, ["seed=3", search_path])]
    with initialize_config_dir(str(find_config_dir()), version_base="1.3"):
        compose(PRIMARY_CONFIG, ["seed=4"])
    assert len(seen) == 2


@pytest.mark.parametrize(
    ("arguments", "mode", "composed"),
    [
        (["seed=3"], RunMode.RUN, 1),
        (["-m", "seed=3"], RunMode.MULTIRUN, 3),
        (["seed=3", "hydra.mode=MULTIRUN"], RunMode.MULTIRUN, 4),
        (["--config-dir=.", "seed=3", "+kind=many"], RunMode.MULTIRUN, 4),
    ],
)
def test_checked_hydra_configs_composes_no_more_than_needed(
    arguments: list[str], mode: RunMode, composed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hydra composes once for a run, three times for a sweep of one job, and once more if the mode may be set."""
    add_config_dirs([])  # those of earlier commands in this process may set the mode
    GlobalHydra.instance().clear()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kind").mkdir()
    (tmp_path / "kind" / "many.yaml").write_text("# @package _global_\nhydra: {mode: MULTIRUN}\n")
    monkeypatch.setattr("sys.argv", ["application", *arguments])
    seen: list[object] = []
    modes: list[RunMode | None] = []
    application = hydra_main(version_base="1.3", config_path=str(find_config_dir()), config_name=PRIMARY_CONFIG)
    with compat.checked_hydra_configs(lambda config, overrides: seen.append(config), seen.append):
        application(lambda config: modes.append(HydraConfig.get().mode))()
    assert modes == [mode]
    assert sum(isinstance(config, DictConfig) for config in seen) == composed


def test_make_hydra_context_is_accepted_by_a_launcher() -> None:
    with initialize_config_dir(str(find_config_dir()), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        config = hydra.compose_config(PRIMARY_CONFIG, [], RunMode.MULTIRUN, with_log_configuration=False)
        context = compat.make_hydra_context(hydra.config_loader)
        launcher = Plugins.instance().instantiate_launcher(context, lambda config: None, config)
        assert type(launcher).__name__ == "BasicLauncher"


def test_get_job_error_returns_the_jobs_exception() -> None:
    error = ValueError("invalid")
    job = JobReturn(status=JobStatus.FAILED)
    job.return_value = error
    assert compat.get_job_error(job) is error


def test_mlflow_transaction_writes_all_or_nothing(tmp_path: Path) -> None:
    client = stores.import_mlflow().MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    experiment_id = client.create_experiment("tests", artifact_location=tmp_path.as_uri())
    with compat.mlflow_transaction(client):
        run_id = client.create_run(experiment_id).info.run_id
        client.log_metric(run_id, "accuracy", 0.5)
    with suppress(RuntimeError), compat.mlflow_transaction(client):
        client.log_metric(run_id, "accuracy", 0.6)
        client.create_run(experiment_id)
        raise RuntimeError
    assert [run.info.run_id for run in client.search_runs([experiment_id])] == [run_id]
    assert client.get_run(run_id).data.metrics == {"accuracy": 0.5}


def test_download_mlflow_file_writes_one_file(tmp_path: Path) -> None:
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts" / "a.txt").write_text("a")
    stores.import_mlflow()
    uri = (tmp_path / "artifacts").as_uri()
    compat.download_mlflow_file(uri, f"sqlite:///{tmp_path}/mlflow.db", "a.txt", tmp_path / "copy")
    assert (tmp_path / "copy").read_text() == "a"


def test_single_mlflow_attempt_sets_mlflows_constant() -> None:
    utils = stores.import_mlflow().store.db.utils
    attempts = utils.MAX_RETRY_COUNT
    with compat.single_mlflow_attempt():
        assert utils.MAX_RETRY_COUNT == 1
    assert utils.MAX_RETRY_COUNT == attempts > 1
    assert "MAX_RETRY_COUNT" in inspect.getsource(utils.create_sqlalchemy_engine_with_retry)


def test_omit_layout_tables_makes_pdfs_smaller() -> None:
    from fontTools.subset import Options
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    def write(figure: Figure) -> bytes:
        file = io.BytesIO()
        figure.savefig(file, format="pdf")
        return file.getvalue()

    with rc_context({"pdf.fonttype": 42}):
        figure = Figure()
        figure.text(0.5, 0.5, "AVA fi")
        usual = write(figure)
        with compat.omit_layout_tables():
            smaller = write(figure)
    assert b"/TrueType" in smaller or b"/CIDFontType2" in smaller
    assert len(smaller) < 0.97 * len(usual)
    assert "GPOS" not in Options().drop_tables
