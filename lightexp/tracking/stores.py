"""MLflow's stores: their addresses, the first use of a SQLite store, and limits on the time that any of them takes."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from filelock import FileLock

from lightexp.core import compat
from lightexp.core.regular_files import require_regular
from lightexp.core.secrets import find_secret

_LOGGERS = ("mlflow", "alembic", "urllib3", "sqlalchemy")


@cache
def import_mlflow() -> Any:
    """Import MLflow (about 2 s the first time) with all that a local store needs, and return its module.

    It switches off MLflow's telemetry and one of its warnings for the process. Call it in a command's process or
    in the one that keeps mirrors, never in a user's.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # it would report each use to its makers
    # A warning of MLflow about its own code. `catch_warnings` would not be safe with threads.
    warnings.filterwarnings("ignore", message="The ``noload`` loader strategy is deprecated")
    import mlflow
    import mlflow.store.artifact.local_artifact_repo
    import mlflow.store.tracking.sqlalchemy_store

    return mlflow


def find_uri_problem(uri: str) -> str | None:
    """Return what is wrong with a tracking URI and what to do, or None.

    Example:
        >>> find_uri_problem("http://127.0.0.1:5000") is None
        True
        >>> find_uri_problem("mlruns")
        'MLflow keeps no runs in plain folders. Received: uri=mlruns. Use sqlite:///FILE or http://HOST:PORT'
    """
    parts = urlsplit(uri)
    if not parts.scheme or parts.scheme == "file":
        return f"MLflow keeps no runs in plain folders. Received: uri={uri}. Use sqlite:///FILE or http://HOST:PORT"
    file = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:///") and os.path.lexists(file) and not file.is_file():
        return f"{file} is no file. Received: uri={uri}. Use sqlite:///FILE"
    if place := find_secret(uri):
        return (
            f"the URI holds {place}, which every record would show. Give it in the environment (MLFLOW_TRACKING_TOKEN, "
            "or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD; PGPASSWORD) or in ~/.pgpass"
        )
    return None


def resolve_uri(uri: str | None, outputs: Path) -> str:
    """Return the tracking URI with an absolute path.

    Args:
        uri: A URI, or None for `mlflow.db` in the outputs folder. A relative SQLite path is relative to the current
            folder.
        outputs: The folder of all outputs.
    """
    if uri is None:
        return _format_sqlite_uri(outputs.absolute() / "mlflow.db")
    path = uri.removeprefix("sqlite:///")
    if path in (uri, "", ":memory:") or path.startswith("/"):
        return uri
    return f"sqlite:///{Path.cwd() / path}"


def _format_sqlite_uri(path: Path) -> str:
    # Only what would end the path is escaped: MLflow creates the parent folder that the URI's text names, unescaped.
    return f"sqlite:///{str(path).replace('%', '%25').replace('?', '%3F')}"


def is_database(uri: str) -> bool:
    """Return whether this process would write to the store's database itself, without a server between."""
    return urlsplit(uri).scheme.partition("+")[0] in ("sqlite", "postgresql", "mysql", "mssql")


def find_location_problem(uri: str, artifact_uri: str | None) -> str | None:
    """Return what is wrong with the place that a store names for a run's files, or None.

    A server must not choose a folder of this machine; one on this machine may.

    Example:
        >>> find_location_problem("http://127.0.0.1:5000", "file:///shared/1/artifacts") is None
        True
        >>> find_location_problem("http://host:5000", "file:///home/me/.config")
        "it names a folder of this machine for files: file:///home/me/.config. Start the server with --serve-artifacts"
    """
    server = urlsplit(uri)
    is_remote = server.scheme in ("http", "https") and not _is_loopback(server.hostname or "")
    if not is_remote or urlsplit(artifact_uri or "").scheme not in ("", "file"):
        return None
    return f"it names a folder of this machine for files: {artifact_uri}. Start the server with --serve-artifacts"


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def get_database_file(uri: str) -> Path | None:
    """Return the file of a SQLite URI, or None for any other URI."""
    if not uri.startswith("sqlite:"):
        return None
    from sqlalchemy.engine import make_url

    path = make_url(uri).database
    return Path(path) if path and path != ":memory:" else None


def prepare_database(database: Path, artifacts: Path) -> None:
    """Create a SQLite store atomically unless it exists: several processes may try at once, or die meanwhile.

    Args:
        database: The file.
        artifacts: The folder for artifacts of MLflow's own default experiment.

    Raises:
        OSError: If something else is in the file's place.
    """
    if database.exists():
        require_regular(database)
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{database}.lock"):
        if database.exists():
            return
        store_type = import_mlflow().store.tracking.sqlalchemy_store.SqlAlchemyStore
        draft = database.with_name(f"{database.name}.draft")
        for leftover in (draft, draft.with_name(f"{draft.name}-journal")):
            leftover.unlink(missing_ok=True)  # of a process that died: this one holds the lock
        store = store_type(_format_sqlite_uri(draft), artifacts.absolute().as_uri())
        store.engine.dispose()
        draft.replace(database)


@contextmanager
def bound_retries(timeout: int, retries: int) -> Iterator[None]:
    """Limit how long MLflow tries, and keep it from logging and printing, while the context lasts.

    MLflow's own limits are minutes. What the user has set in the environment takes precedence.

    Args:
        timeout: Of each request or connection, in seconds.
        retries: Number of further attempts after a failed request.
    """
    limits = {
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(timeout),
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": str(retries),
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "PGCONNECT_TIMEOUT": str(timeout),
    }
    import_mlflow()
    added = {name: value for name, value in limits.items() if name not in os.environ}
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    os.environ.update(added)
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        with compat.single_mlflow_attempt():
            yield
    finally:
        for name in added:
            os.environ.pop(name, None)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
