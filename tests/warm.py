"""The `lightexp` command, and scripts, in processes forked from one that has imported everything.

Hundreds of tests start the command, and TensorFlow alone takes three seconds to import. What such a process does is
what the command does, but for its imports; the tests of these, and of signals, start the command itself.
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
# As it is before any test changes it. A pool of threads does not survive a fork.
_ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
_ENVIRONMENT |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
_started: list[subprocess.Popen[bytes]] = []


def lightexp(
    words: Sequence[str], cwd: Path, environment: Mapping[str, str], timeout: float
) -> subprocess.CompletedProcess[str]:
    """Runs the command in `cwd` to its end.

    Raises:
        subprocess.TimeoutExpired: If it took longer than `timeout` seconds; it has been killed.
    """
    return _run(_COMMAND, words, cwd, environment, timeout)


def script(
    path: Path, words: Sequence[str], cwd: Path, environment: Mapping[str, str], timeout: float
) -> subprocess.CompletedProcess[str]:
    """Runs a Python script; see `lightexp`."""
    return _run(path, words, cwd, environment, timeout)


def _run(
    program: Path, words: Sequence[str], cwd: Path, environment: Mapping[str, str], timeout: float
) -> subprocess.CompletedProcess[str]:
    words = [str(program), *words]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err, _server() as server:
        streams = [f"/proc/{os.getpid()}/fd/{file.fileno()}" for file in (out, err)]
        request = {"words": words, "cwd": str(cwd), "environment": dict(environment), "streams": streams}
        server.sendall(json.dumps({**request, "timeout": timeout}).encode() + b"\n")
        code = json.loads(server.recv(100))
        out.seek(0)
        err.seek(0)
        if code is None:
            raise subprocess.TimeoutExpired(words, timeout, out.read(), err.read())
        return subprocess.CompletedProcess(words, code, out.read(), err.read())


def _server() -> socket.socket:
    """A connection to the one process of all that run these tests side by side; whoever needs it first starts it."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    path = Path(tempfile.gettempdir(), f"lightexp-{run or os.getpid()}.socket")
    connection = socket.socket(socket.AF_UNIX)
    with FileLock(f"{path}.lock"):
        if not path.exists():
            command = [sys.executable, "-W", "ignore", __file__, str(path), str(os.getppid() if run else os.getpid())]
            _started.append(subprocess.Popen(command, env=_ENVIRONMENT, stdin=subprocess.DEVNULL))
            while not path.exists():
                assert _started[0].poll() is None, "it cannot start"
                time.sleep(0.05)
        connection.connect(str(path))
    return connection


def _serve(path: Path, owner: int) -> None:
    """Forks a process for each request, which is answered by its exit code, or null where it took too long.

    Ends with its owner, the process that started the tests.
    """
    server = socket.socket(socket.AF_UNIX)
    server.bind(f"{path}.draft")
    server.listen()
    server.settimeout(1)
    Path(f"{path}.draft").rename(path)  # who sees it can connect
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
        connection.sendall(json.dumps(_end(child, request["timeout"])).encode() + b"\n")
        os._exit(0)
    connection.close()
    for number, place in enumerate(["/dev/null", *request["streams"]]):
        opened = os.open(place, os.O_RDWR | os.O_APPEND)
        os.dup2(opened, number)
        os.close(opened)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.path[:0] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    sys.argv = request["words"]
    if (program := Path(sys.argv[0])) != _COMMAND:
        sys.path.insert(0, str(program.parent))
        runpy.run_path(str(program), run_name="__main__")
        sys.exit()
    sys.exit(main())


def _end(child: int, timeout: float) -> int | None:
    until = time.monotonic() + timeout
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > until:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None
        time.sleep(0.01)
    return os.waitstatus_to_exitcode(ended[1])


if __name__ == "__main__":
    from importlib import import_module

    from lightexp.backend import session
    from lightexp.cli.main import main

    session.import_tfmot()
    for name in ("lightexp.cli.run", "lightexp.search.study", "matplotlib.backends.backend_svg", "pandas", "sklearn"):
        import_module(name)
    gc.freeze()  # or each process would write to, and so copy, all that it shares with this one
    _serve(Path(sys.argv[1]), int(sys.argv[2]))
