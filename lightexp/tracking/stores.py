"""MLflow's stores: their addresses, a SQLite store's first use, and how long one waits for any of them."""

from __future__ import annotations

import gc
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from filelock import FileLock

_LOGGERS = ("mlflow", "alembic", "urllib3", "sqlalchemy")


@cache
def import_mlflow() -> Any:
    """Imports MLflow (about 2 s the first time) with all that a local store needs, and returns its module."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # it would report each use to its makers
    # MLflow's own; no catch_warnings, which would not be safe in a thread
    warnings.filterwarnings("ignore", message="The ``noload`` loader strategy is deprecated")
    gc.disable()  # a quarter of the import's time would go to collections that find nothing
    import mlflow
    import mlflow.store.artifact.local_artifact_repo
    import mlflow.store.tracking.sqlalchemy_store

    gc.freeze()  # no collection looks through MLflow's own objects
    gc.enable()
    return mlflow


def find_uri_problem(uri: str) -> str | None:
    """What is wrong with a tracking URI, in words, or None."""
    parts = urlsplit(uri)
    if not parts.scheme or parts.scheme == "file":
        return f"MLflow keeps no runs in plain folders. Received: uri={uri}. Use sqlite:///FILE or http://HOST:PORT"
    if parts.password:
        return (
            "the URI holds a password, which every record would show. Give it in the environment "
            "(MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or PGPASSWORD)"
        )
    return None


def resolve_uri(uri: str | None, outputs: Path) -> str:
    """The whole tracking URI: `mlflow.db` in `outputs` for None, a relative SQLite path made absolute."""
    if uri is None:
        return _sqlite(outputs.absolute() / "mlflow.db")
    path = uri.removeprefix("sqlite:///")
    if path in (uri, "", ":memory:") or path.startswith("/"):
        return uri
    return f"sqlite:///{Path.cwd() / path}"


def _sqlite(path: Path) -> str:
    # Only what would end the path is escaped: MLflow makes the parent folder of the URI's text as it stands.
    return f"sqlite:///{str(path).replace('%', '%25').replace('?', '%3F')}"


def is_database(uri: str) -> bool:
    """Whether this process would write to the store's database itself, with no server between."""
    return urlsplit(uri).scheme.partition("+")[0] in ("sqlite", "postgresql", "mysql", "mssql")


def get_database_file(uri: str) -> Path | None:
    """The file of a SQLite URI, or None."""
    if not uri.startswith("sqlite:"):
        return None
    from sqlalchemy.engine import make_url

    path = make_url(uri).database
    return Path(path) if path and path != ":memory:" else None


def prepare_database(database: Path, artifacts: Path) -> None:
    """Makes a SQLite store where there is none, whole or not at all: many may ask for it at once, or die over it.

    Args:
        database: The file.
        artifacts: The folder for artifacts of MLflow's own default experiment.
    """
    if database.exists():
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{database}.lock"):
        if database.exists():
            return
        store_type = import_mlflow().store.tracking.sqlalchemy_store.SqlAlchemyStore
        draft = database.with_name(f"{database.name}.draft")
        for leftover in (draft, draft.with_name(f"{draft.name}-journal")):
            leftover.unlink(missing_ok=True)  # of a process that died: the lock is ours
        store = store_type(_sqlite(draft), artifacts.absolute().as_uri())
        store.engine.dispose()
        draft.replace(database)


@contextmanager
def bound_retries(timeout: int, retries: int) -> Iterator[None]:
    """Bounds how long MLflow tries, and keeps it from logging and printing, while the context lasts.

    MLflow's own limits are minutes. What the user has set in the environment stands.

    Args:
        timeout: Of each request or connection, in seconds.
        retries: After a failed request.
    """
    wanted = {
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(timeout),
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": str(retries),
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "PGCONNECT_TIMEOUT": str(timeout),
    }
    added = {name: value for name, value in wanted.items() if name not in os.environ}
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    utils = import_mlflow().store.db.utils
    levels, attempts = [logger.level for logger in loggers], utils.MAX_RETRY_COUNT
    os.environ.update(added)
    utils.MAX_RETRY_COUNT = 1  # no setting reaches it: ten attempts take 100 s at a database that is not there
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
        utils.MAX_RETRY_COUNT = attempts
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def batch_writes(client: Any) -> Iterator[None]:
    """Makes one transaction of all that a client writes to a SQLite file in the context; elsewhere nothing changes.

    MLflow commits each of its calls several times, and SQLite waits for the disk at each. Others that write wait until
    the context ends.
    """
    store = client._tracking_client.store
    managed = getattr(import_mlflow().store.db.utils, "_get_managed_session_maker", None)
    if managed is None or not hasattr(store, "ManagedSessionMaker") or store.engine.dialect.name != "sqlite":
        yield
        return
    from sqlalchemy.orm import sessionmaker

    with store.engine.connect() as connection:
        for setting in ("foreign_keys = ON", "busy_timeout = 20000", "case_sensitive_like = true"):  # MLflow's
            connection.exec_driver_sql(f"PRAGMA {setting}")
        connection.commit()
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        sessions = sessionmaker(bind=connection, join_transaction_mode="create_savepoint")
        own, store.ManagedSessionMaker = store.ManagedSessionMaker, managed(sessions, "")
        try:
            yield
            connection.commit()
        finally:
            store.ManagedSessionMaker = own
