"""Run the `lightexp` command and scripts in forks of a process that has already imported everything.

Hundreds of tests start the command, and importing TensorFlow alone takes two seconds. A fork does what the command
does except for its imports and for the freeing of memory at its end, and so do the workers and commands that it
starts (see `tests/warm_start.py`). Tests of imports start the command itself, and so do those of signals and killed
processes, by `start_command`: there only its workers are forks.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import pkgutil
import random
import runpy
import select
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])

from tests.warm_start import PYTHON_VARIABLE, SERVER_VARIABLE, connect, request_fork

_PYTHON = sys.executable
_COMMAND = Path(_PYTHON).parent / "lightexp"
_COMMAND_WITH_FORKS = (
    "import sys; sys.executable = sys.argv.pop(1); from lightexp.cli.main import main; sys.exit(main())"
)
# The environment before any test changes it. One thread, because a thread pool does not survive a fork.
_ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
_ENVIRONMENT |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
_MODULES = ("matplotlib.figure", "matplotlib.backends.backend_svg", "pandas", "rich.live", "scipy.stats", "sklearn")
"""Modules that commands import late. Those of lightexp are added."""
_exit_codes: list[int] = []
"""The exit code of this fork's program, once it has ended."""


def run_command(
    arguments: Sequence[str], cwd: Path, environment: Mapping[str, str], timeout: float
) -> subprocess.CompletedProcess[str]:
    """Run `lightexp` in a folder and wait for its end.

    Args:
        arguments: The command line after `lightexp`.
        cwd: The current folder.
        environment: The environment variables.
        timeout: Seconds after which the command is killed.

    Raises:
        subprocess.TimeoutExpired: If the command was killed at its time limit.
    """
    return _run(_COMMAND, arguments, cwd, environment, timeout)


def run_script(
    path: Path, arguments: Sequence[str], cwd: Path, environment: Mapping[str, str], timeout: float
) -> subprocess.CompletedProcess[str]:
    """Run a Python script; see `run_command`."""
    return _run(path, arguments, cwd, environment, timeout)


def start_command(
    arguments: Sequence[str], cwd: Path, environment: Mapping[str, str], is_fork: bool = False, **options: Any
) -> subprocess.Popen[str]:
    """Start `lightexp` in a process that has imported nothing, and whose workers are forks.

    Args:
        arguments: The command line after `lightexp`.
        cwd: The current folder.
        environment: The environment variables.
        is_fork: Whether the command is a fork, too; the process then passes signals on to it, and is not its parent.
            Defaults to False.
        **options: Further arguments of `Popen`.
    """
    python, variables = start_warm_python()
    program = (
        [str(Path(python).with_name("lightexp"))] if is_fork else [_PYTHON, "-P", "-c", _COMMAND_WITH_FORKS, python]
    )
    return subprocess.Popen(
        [*program, *arguments],
        cwd=cwd,
        env={**environment, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def start_warm_python() -> tuple[str, dict[str, str]]:
    """Return a `python` whose worker processes are forks, and the environment variables that it needs.

    A process with this as its `sys.executable` starts its workers in this way. Start the process itself as usual.
    """
    path = _start_server()
    return str(_name_programs(path) / "python"), _name_server(path)


def _name_programs(path: Path) -> Path:
    return Path(f"{path}.bin")


def _name_server(path: Path) -> dict[str, str]:
    """Return the environment variables that `tests/warm_start.py` reads."""
    return {SERVER_VARIABLE: str(path), PYTHON_VARIABLE: _PYTHON}


def _run(
    program: Path, arguments: Sequence[str], cwd: Path, environment: Mapping[str, str], timeout: float
) -> subprocess.CompletedProcess[str]:
    command, path = [str(program), *arguments], _start_server()
    with (
        open(os.devnull, "rb") as nothing,
        tempfile.TemporaryFile("w+", encoding="utf-8") as out,
        tempfile.TemporaryFile("w+", encoding="utf-8") as err,
        connect(str(path), command) as connection,
    ):
        streams = [file.fileno() for file in (nothing, out, err)]
        request_fork(connection, command, str(cwd), {**environment, **_name_server(path)}, streams)
        connection.settimeout(timeout)
        try:
            exit_code = json.loads(connection.recv(100))
        except TimeoutError:
            exit_code = None
        out.seek(0)
        err.seek(0)
        if exit_code is None:
            raise subprocess.TimeoutExpired(command, timeout, out.read(), err.read())
        return subprocess.CompletedProcess(command, exit_code, out.read(), err.read())


def _start_server() -> Path:
    """Return the socket of the server that all test processes share; the first one to need it starts it."""
    run_id = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    path = Path(tempfile.gettempdir(), f"lightexp-{run_id or os.getpid()}.socket")
    with FileLock(f"{path}.lock"):
        if not path.exists():
            owner = os.getppid() if run_id else os.getpid()
            command = [_PYTHON, "-W", "ignore", __file__, str(path), str(owner)]
            subprocess.run(command, env=_ENVIRONMENT, stdin=subprocess.DEVNULL, check=True)
    return path


def _serve(path: Path, owner: int) -> dict[str, Any]:
    """Fork a process for each connection, and return its request in the fork.

    Args:
        path: The socket.
        owner: Process id of the test run; the server ends with it.
    """
    gc.freeze()  # else each fork would write to, and so copy, the memory that it shares with this process
    server = socket.socket(socket.AF_UNIX)
    server.bind(f"{path}.draft")
    server.listen(100)
    server.settimeout(1)
    Path(f"{path}.draft").rename(path)  # a client that sees the socket can connect
    while True:
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        try:
            connection, _ = server.accept()
        except TimeoutError:
            if Path(f"/proc/{owner}").exists():
                continue
            path.unlink()
            Path(f"{path}.lock").unlink(missing_ok=True)
            shutil.rmtree(_name_programs(path), ignore_errors=True)
            sys.exit()
        if not os.fork():
            server.close()
            return _answer(connection)
        connection.close()


def _answer(connection: socket.socket) -> dict[str, Any]:
    """Return a connection's request in a fork; stay behind to pass on signals, and answer with the fork's exit code."""
    connection.settimeout(None)
    _, streams, _, _ = socket.recv_fds(connection, 1, 3)
    request: dict[str, Any] = json.loads(connection.makefile().readline())
    if child := os.fork():
        for descriptor in streams:
            os.close(descriptor)
        _attend(child, connection, request["leads_session"])
        os._exit(0)
    connection.close()
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    return request


def _attend(child: int, connection: socket.socket, leads_session: bool) -> None:
    """Pass signals on to a process until it ends, then send its exit code; kill it if the connection is closed."""
    end = os.pidfd_open(child)
    while end not in select.select([end, connection], [], [])[0]:
        for number in connection.recv(100) or [signal.SIGKILL]:
            try:
                (os.killpg if leads_session else os.kill)(child, number)
            except ProcessLookupError:  # it does not lead its session yet
                os.kill(child, number)
    exit_code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with suppress(BrokenPipeError):
        connection.sendall(json.dumps(exit_code).encode())


def _run_request(request: dict[str, Any], programs: Path) -> None:
    """Run a program in this process as if it had just started."""
    if request["leads_session"]:
        os.setsid()
    sys.stdin = sys.__stdin__ = os.fdopen(0, encoding="utf-8", closefd=False)  # type: ignore[misc]
    sys.stdout = sys.__stdout__ = os.fdopen(1, "w", encoding="utf-8", closefd=False)  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = os.fdopen(2, "w", 1, "utf-8", "backslashreplace", closefd=False)  # type: ignore[misc]
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.path[:0] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    sys.executable = str(programs / "python")
    random.seed()
    try:
        _run_program(request["command"])
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            _exit_codes.append(end.code or 0)
        raise


def _skip_finalization() -> None:
    """End a fork without freeing its modules, which would copy the memory that it shares with the server."""
    if not _exit_codes:
        return
    try:
        for stream in (sys.stdout, sys.stderr):
            if not stream.closed:
                stream.flush()
    except OSError:  # Python says so
        return
    os._exit(_exit_codes[0] & 0xFF)


def _run_program(command: list[str]) -> None:
    """Run a program to its end, which is a SystemExit or an error."""
    if Path(command[0]).name == "lightexp":
        sys.argv = command
        from lightexp.cli.main import main

        sys.exit(main())
    if command[0] == "-P":
        sys.argv = command[2:]
        runpy.run_module(command[2], run_name="__main__", alter_sys=True)
    else:
        sys.argv = command
        sys.path.insert(0, str(Path(command[0]).parent))
        runpy.run_path(command[0], run_name="__main__")
    sys.exit()


def _write_programs(folder: Path) -> None:
    """Write the programs that `sys.executable` and its folder name in forks, and in what forks start."""
    text = Path(__file__).with_name("warm_start.py").read_text(encoding="utf-8")
    folder.mkdir()
    for name in ("python", "lightexp"):
        (folder / name).write_text(f"#!{_PYTHON} -IS\n{text}", encoding="utf-8")
        (folder / name).chmod(0o755)
    (folder / "sitecustomize.py").write_text(
        f"import sys\n\nsys.executable = {str(folder / 'python')!r}\n", encoding="utf-8"
    )


def _import_modules(*names: str, without: str = "lightexp.backend.") -> None:
    """Import modules, and those of lightexp but for some that would import TensorFlow."""
    import lightexp

    packages = pkgutil.walk_packages(lightexp.__path__, "lightexp.")
    lightexp_names = (module.name for module in packages if not module.name.endswith("__main__"))
    for name in [*names, *(name for name in lightexp_names if not name.startswith(without))]:
        importlib.import_module(name)


def _import_everything() -> None:
    from lightexp.backend import session

    session.import_tfmot()
    _import_modules(*_MODULES, without="-")


def _import_mlflow() -> None:
    """Import MLflow, and let it copy a database without runs instead of making each by all of its migrations."""
    from lightexp.tracking import stores

    with tempfile.TemporaryDirectory() as folder, stores.bound_retries(1, 0):  # without MLflow's messages
        database = Path(folder, "mlflow.db")
        stores.prepare_database(database, Path(folder))
        with closing(sqlite3.connect(database)) as connection, connection:
            connection.execute("DELETE FROM experiments")  # else MLflow would not add its default one
        content = database.read_bytes()
    store_class = stores.import_mlflow().store.tracking.sqlalchemy_store.SqlAlchemyStore
    initialize = store_class.__init__

    def initialize_from_copy(self: Any, uri: str, *arguments: Any, **options: Any) -> None:
        file = stores.get_database_file(uri)
        if file and not file.exists():
            file.write_bytes(content)
        initialize(self, uri, *arguments, **options)

    store_class.__init__ = initialize_from_copy
    _import_modules()


def _start_servers(path: Path, owner: int) -> None:
    """Start both servers and return when they listen; they are nobody's children, since any test process may end first.

    Args:
        path: The socket.
        owner: Process id of the test run.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a background job of a shell ignores, and its forks
    programs = _name_programs(path)
    _write_programs(programs)
    sockets = {Path(f"{path}.mlflow"): _import_mlflow, path: _import_everything}
    for socket_path, import_modules in sockets.items():
        if not os.fork():
            import_modules()
            _run_request(_serve(socket_path, owner), programs)
    while not all(socket_path.exists() for socket_path in sockets):
        if os.waitpid(-1, os.WNOHANG)[0]:
            sys.exit("a command server cannot start")
        time.sleep(0.05)


if __name__ == "__main__":
    atexit.register(_skip_finalization)  # first, so that it is called last
    del sys.path[0]  # a command has no folder of its own on the path
    _start_servers(Path(sys.argv[1]), int(sys.argv[2]))
