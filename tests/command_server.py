"""Run the `lightexp` command and scripts in forks of a process that has already imported everything.

Hundreds of tests start the command, and importing TensorFlow alone takes three seconds. A fork does what the command
does except for its imports. Tests of imports and of signals start the command itself.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from filelock import FileLock

_COMMAND = Path(sys.executable).parent / "lightexp"
# The environment before any test changes it. One thread, because a thread pool does not survive a fork.
_ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
_ENVIRONMENT |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
_servers: list[subprocess.Popen[bytes]] = []


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


def _run(
    program: Path, arguments: Sequence[str], cwd: Path, environment: Mapping[str, str], timeout: float
) -> subprocess.CompletedProcess[str]:
    command = [str(program), *arguments]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err, _connect() as connection:
        streams = [f"/proc/{os.getpid()}/fd/{file.fileno()}" for file in (out, err)]
        request = {"command": command, "cwd": str(cwd), "environment": dict(environment), "streams": streams}
        connection.sendall(json.dumps({**request, "timeout": timeout}).encode() + b"\n")
        exit_code = json.loads(connection.recv(100))
        out.seek(0)
        err.seek(0)
        if exit_code is None:
            raise subprocess.TimeoutExpired(command, timeout, out.read(), err.read())
        return subprocess.CompletedProcess(command, exit_code, out.read(), err.read())


def _connect() -> socket.socket:
    """Connect to the server that all test processes share; the first one to need it starts it."""
    run_id = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    path = Path(tempfile.gettempdir(), f"lightexp-{run_id or os.getpid()}.socket")
    connection = socket.socket(socket.AF_UNIX)
    with FileLock(f"{path}.lock"):
        if not path.exists():
            owner = os.getppid() if run_id else os.getpid()
            command = [sys.executable, "-W", "ignore", __file__, str(path), str(owner)]
            _servers.append(subprocess.Popen(command, env=_ENVIRONMENT, stdin=subprocess.DEVNULL))
            while not path.exists():
                assert _servers[0].poll() is None, "the command server cannot start"
                time.sleep(0.05)
        connection.connect(str(path))
    return connection


def _serve(path: Path, owner: int) -> None:
    """Fork a process for each request and answer with its exit code, or with null at the time limit.

    Args:
        path: The socket.
        owner: Process id of the test run; the server ends with it.
    """
    server = socket.socket(socket.AF_UNIX)
    server.bind(f"{path}.draft")
    server.listen()
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
            Path(f"{path}.lock").unlink()
            return
        if not os.fork():
            break
        connection.close()
    server.close()
    request = json.loads(connection.makefile().readline())
    if child := os.fork():
        connection.sendall(json.dumps(_wait(child, request["timeout"])).encode() + b"\n")
        os._exit(0)
    connection.close()
    for number, place in enumerate(["/dev/null", *request["streams"]]):
        descriptor = os.open(place, os.O_RDWR | os.O_APPEND)
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.path[:0] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    sys.argv = request["command"]
    if (program := Path(sys.argv[0])) != _COMMAND:
        sys.path.insert(0, str(program.parent))
        runpy.run_path(str(program), run_name="__main__")
        sys.exit()
    sys.exit(main())


def _wait(child: int, timeout: float) -> int | None:
    """Wait for a process and return its exit code; kill it at the time limit and return None."""
    deadline = time.monotonic() + timeout
    while not (status := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None
        time.sleep(0.01)
    return os.waitstatus_to_exitcode(status[1])


if __name__ == "__main__":
    from importlib import import_module

    from lightexp.backend import session
    from lightexp.cli.main import main

    session.import_tfmot()
    for name in ("lightexp.cli.run", "lightexp.search.study", "matplotlib.backends.backend_svg", "pandas", "sklearn"):
        import_module(name)
    gc.freeze()  # else each fork would write to, and so copy, the memory that it shares with this process
    _serve(Path(sys.argv[1]), int(sys.argv[2]))
