"""Private attributes of other libraries: the only module that may touch them.

Each function says why no public interface does, and for which version of the library; `tests/core/test_compat.py`
fails when the library changes what the function relies on.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lightexp.core.hydra_mode import answer_mode_query

if TYPE_CHECKING:
    from pathlib import Path

    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.samplers import TPESampler
    from optuna.trial import FrozenTrial, TrialState

ParameterCache = dict[tuple[str, ...], dict[int, list[float] | None]]
"""By the names of some parameters and a trial's number: Optuna's internal values of that trial's parameters.

None stands for a trial that lacks one of the parameters.
"""


def list_hydra_flags() -> dict[tuple[str, ...], bool]:
    """Return the flags of Hydra's command line, such as `("--cfg", "-c")`, and whether each must have a value.

    Hydra 1.3.8 builds its parser in `hydra._internal.utils` and has no public way to ask for its flags, which
    `lightexp run` needs to refuse a misspelt one in one line and to complete them in a shell.
    """
    from hydra._internal.utils import get_args_parser

    actions = [action for action in get_args_parser()._actions if action.option_strings]
    return {tuple(action.option_strings): action.nargs is None for action in actions}


def complete_with_hydra(config_loader: Any, config_name: str, line: str) -> list[str]:
    """Return what may stand in place of the last word of `line`, as Hydra's shell completion has it.

    Hydra 1.3.8 offers completion only to its own scripts, which run the whole application; the query behind them is
    the private `CompletionPlugin._query`.

    Args:
        config_loader: Hydra's config loader.
        config_name: Of the primary config.
        line: Overrides separated by spaces, of which the last is incomplete.
    """
    from hydra.plugins.completion_plugin import DefaultCompletionPlugin

    return list(DefaultCompletionPlugin(config_loader)._query(config_name, line))


def make_caching_tpe_sampler(cache: ParameterCache, **settings: Any) -> TPESampler:
    """Make a TPE sampler that reads each finished trial once, and proposes exactly what Optuna's own proposes.

    Optuna 5.0 converts the parameters of all trials for every proposal (`TPESampler._get_internal_repr`), so that a
    proposal after a thousand trials takes longer than a trial. It cannot be replaced through its public interface.

    Args:
        cache: Parameters of the study's finished trials; the sampler adds to it.
        settings: Arguments of `optuna.samplers.TPESampler`.
    """
    import numpy as np
    from optuna.samplers import TPESampler

    class CachingTPESampler(TPESampler):
        def _get_internal_repr(
            self, trials: list[FrozenTrial], search_space: dict[str, BaseDistribution], study: Study
        ) -> dict[str, Any]:
            known = cache.setdefault(tuple(search_space), {})
            new = {t.number: self._convert(t, search_space, study) for t in trials if t.number not in known}
            known |= {t.number: new[t.number] for t in trials if t.number in new and t.state.is_finished()}
            rows = [known[t.number] if t.number in known else new[t.number] for t in trials]
            complete = [row for row in rows if row is not None]
            columns = zip(*complete, strict=True) if complete else [()] * len(search_space)
            return dict(zip(search_space, map(np.asarray, columns), strict=True))

        def _convert(
            self, trial: FrozenTrial, search_space: dict[str, BaseDistribution], study: Study
        ) -> list[float] | None:
            params = self._get_params(trial, study)
            if not search_space.keys() <= params.keys():
                return None
            return [distribution.to_internal_repr(params[name]) for name, distribution in search_space.items()]

    return CachingTPESampler(**settings)


def make_study_view(study: Study, trials: Sequence[Any]) -> Any:
    """Make a view of a study for samplers, which holds some of its trials, in any form that samplers can read.

    Optuna 5.0's samplers read trials by `Study._get_trials` and store by `Study._storage`; neither can be replaced
    through the public interface. The view stores nothing: TPE would store each proposal a second time.

    Args:
        study: The study, which answers everything else.
        trials: The trials, by number.
    """
    return _StudyView(study, trials)


class _StudyView:
    def __init__(self, study: Study, trials: Sequence[Any]) -> None:
        self._study, self._trials, self._storage = study, trials, self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Store nothing."""

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[Any]:
        return [trial for trial in self._trials if states is None or trial.state in states]


@contextmanager
def checked_hydra_configs(
    check_config: Callable[[Any, Sequence[str]], None], check_search_path: Callable[[Sequence[str]], None]
) -> Iterator[None]:
    """Make the Hydra applications that start in the context check each config before Hydra uses it.

    Hydra 1.3.8 starts callbacks and logging as soon as it has composed a config, in `hydra.main`. It makes its config
    loader by the name `ConfigLoaderImpl` in `hydra._internal.hydra`, and has no public hook between the two. Its
    repository expands the aliases of a file as it reads it.

    Args:
        check_config: Called with a composed config and the overrides; raises if Hydra must not use it.
        check_search_path: Called with the entries of `hydra.searchpath` before any is opened; raises likewise.
    """
    import hydra._internal.hydra
    from hydra._internal.config_loader_impl import ConfigLoaderImpl

    from lightexp.core.yaml_text import load_checked_config

    class CheckedConfigLoader(ConfigLoaderImpl):
        def load_configuration(self, config_name: str | None, overrides: list[str], *args: Any, **options: Any) -> Any:
            if mode_alone := answer_mode_query(self, overrides, options):
                return mode_alone
            config = super().load_configuration(config_name, overrides, *args, **options)
            check_config(config, overrides)
            return config

        def _process_config_searchpath(self, config_name: str | None, parsed_overrides: Any, repo: Any) -> None:
            initialize = repo.initialize_sources

            def initialize_checked(search_path: Any) -> None:
                check_search_path([e.path for e in search_path.get_path() if e.provider.startswith("hydra.searchpath")])
                initialize(search_path)

            load = repo.load_config
            results: dict[str, Any] = {}

            def load_once(config_path: str) -> Any:
                if config_path not in results:
                    results[config_path] = load_checked_config(config_path, repo.get_sources(), load)
                return results[config_path]

            repo.initialize_sources, repo.load_config = initialize_checked, load_once
            super()._process_config_searchpath(config_name, parsed_overrides, repo)

    module: Any = hydra._internal.hydra
    module.ConfigLoaderImpl = CheckedConfigLoader
    try:
        yield
    finally:
        module.ConfigLoaderImpl = ConfigLoaderImpl


def make_hydra_context(config_loader: Any) -> Any:
    """Return the context that Hydra instantiates a launcher with, outside a Hydra application.

    Hydra 1.3.8 has `HydraContext` in its public `hydra.types`, but the callbacks that its constructor needs are in
    `hydra._internal.callbacks`.

    Args:
        config_loader: Hydra's config loader.
    """
    from hydra._internal.callbacks import Callbacks
    from hydra.types import HydraContext

    return HydraContext(config_loader, Callbacks())


def get_job_error(job: Any) -> BaseException:
    """Return the exception that a launcher's job has failed with.

    Hydra 1.3.8 raises it from the public `JobReturn.return_value`, after it has printed the job's overrides to standard
    error.

    Args:
        job: A `hydra.core.utils.JobReturn` of a job that has failed.
    """
    error = job._return_value
    assert isinstance(error, BaseException)
    return error


@contextmanager
def mlflow_transaction(client: Any) -> Iterator[None]:
    """Write all that an MLflow client writes to a SQLite file in the context in one transaction, or nothing of it.

    MLflow 3.17 commits each of its calls several times, for each of which SQLite waits for the disk. Its store makes
    a session for every call with `ManagedSessionMaker`, which no setting reaches; here all sessions share one
    connection. Other processes that write wait until the context ends. With any other store nothing changes.

    Call it only in a process of lightexp's own: MLflow keeps one store per address for the whole process.

    Args:
        client: An `MlflowClient`.
    """
    import mlflow.store.db.utils
    from sqlalchemy.orm import sessionmaker

    store = client._tracking_client.store
    if not hasattr(store, "engine") or store.engine.dialect.name != "sqlite":
        yield
        return
    with store.engine.connect() as connection:
        for setting in ("foreign_keys = ON", "busy_timeout = 20000", "case_sensitive_like = true"):  # as MLflow has it
            connection.exec_driver_sql(f"PRAGMA {setting}")
        connection.commit()
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        sessions = sessionmaker(bind=connection, join_transaction_mode="create_savepoint")
        original = store.ManagedSessionMaker
        store.ManagedSessionMaker = mlflow.store.db.utils._get_managed_session_maker(sessions, "")
        try:
            yield
            connection.commit()
        finally:
            store.ManagedSessionMaker = original


def download_mlflow_file(artifact_uri: str | None, tracking_uri: str, name: str, target: Path) -> None:
    """Download one file of an MLflow run, in the thread that calls it.

    MLflow 3.17's public `download_artifacts` first asks the server whether the file is a folder, and downloads it in
    threads that the interpreter waits for at its end, however long they take.

    Args:
        artifact_uri: Of the run.
        tracking_uri: Of the store that has named it.
        name: Of the file.
        target: The file to write.
    """
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    get_artifact_repository(artifact_uri, tracking_uri=tracking_uri)._download_file(name, str(target))


@contextmanager
def single_mlflow_attempt() -> Iterator[None]:
    """Make MLflow try to connect to a database only once in the context.

    MLflow 3.17 tries ten times, for 100 s, at a database that is not there. Only the constant `MAX_RETRY_COUNT` of its
    internal module `mlflow.store.db.utils` limits it.
    """
    import mlflow.store.db.utils as utils

    attempts = utils.MAX_RETRY_COUNT
    utils.MAX_RETRY_COUNT = 1
    try:
        yield
    finally:
        utils.MAX_RETRY_COUNT = attempts


@contextmanager
def omit_layout_tables() -> Iterator[None]:
    """Embed fonts in PDFs without their tables of kerning and ligatures while the context lasts; no PDF uses them.

    matplotlib 3.11 subsets fonts by fontTools 4 and has no setting for it. To read and subset these tables takes a
    fourth of a report's time. fontTools has the tables that it leaves out in `Options._drop_tables_default`.
    """
    from fontTools.subset import Options  # type: ignore[import-untyped]

    default = Options._drop_tables_default
    Options._drop_tables_default = [*default, "GDEF", "GPOS", "GSUB"]
    try:
        yield
    finally:
        Options._drop_tables_default = default


def list_keras_layers(model: Any) -> list[Any]:
    """Return a tf_keras model and all layers inside it, in Keras' own order.

    tf_keras 2.21 has the private `Layer._flatten_layers`; the public `submodules` has another order, on which the
    layers' seeds, and so trained weights, would depend.
    """
    return list(model._flatten_layers())


def get_random_generator(layer: Any) -> Any:
    """Return a tf_keras layer's own random generator, or None if it draws nothing.

    tf_keras 2.21 keeps it in `_random_generator`, which has no public name.
    """
    return vars(layer).get("_random_generator")


def set_random_generator(layer: Any, generator: Any) -> None:
    """Replace a tf_keras layer's random generator.

    The attribute is private (see `get_random_generator`). It is set in the layer's `__dict__`, because tf_keras 2.21
    would track an assigned generator as part of the layer's state.
    """
    vars(layer)["_random_generator"] = generator


def get_random_generator_class(keras: Any) -> type[Any]:
    """Return the class of tf_keras layers' random generators; `keras` is the tf_keras module.

    tf_keras 2.21 exports it from the private `tf_keras.src.backend` alone.
    """
    generator_class: type[Any] = keras.src.backend.RandomGenerator
    return generator_class


def list_keras_nodes(model: Any) -> list[Any]:
    """Return the calls (nodes) of a functional tf_keras model's layers, in the order in which Keras makes them.

    tf_keras 2.21 keeps the order in `_nodes_by_depth`; a layer's public `inbound_nodes` holds its calls in all models.
    """
    return [node for depth in sorted(model._nodes_by_depth, reverse=True) for node in model._nodes_by_depth[depth]]


def expects_training(layer: Any) -> bool:
    """Return whether a tf_keras layer's `call` takes `training`.

    tf_keras 2.21 computes it as `_expects_training_arg`; the signature of `call` alone does not tell, since Keras
    wraps it.
    """
    return bool(layer._expects_training_arg)


def locate_first_vector(table: Any) -> int:
    """Return where the vector of a flatbuffer table's first field begins in its file, in bytes.

    Code that flatbuffers 25 generates gives a vector's values and length, not its place; the table behind it is the
    private `_tab`.
    """
    first_field = 4  # offset of the first field in a table's vtable
    return int(table._tab.Vector(table._tab.Offset(first_field)))
