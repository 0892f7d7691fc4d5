"""The `lightexp` command, and scripts, in processes forked from one that has imported everything.

Hundreds of tests start the command, and TensorFlow alone takes three seconds to import. What such a process does is
what the command does, but for its imports; the tests of these, and of signals, start the command itself.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

_COMMAND = Path(sys.executable).parent / "lightexp"
# As it is before any test changes it. A pool of threads does not survive a fork.
_ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
_ENVIRONMENT |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


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
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        streams = [f"/proc/{os.getpid()}/fd/{file.fileno()}" for file in (out, err)]
        server = _server()
        request = {"words": words, "cwd": str(cwd), "environment": dict(environment), "streams": streams}
        assert server.stdin is not None and server.stdout is not None
        server.stdin.write(json.dumps({**request, "timeout": timeout}) + "\n")
        server.stdin.flush()
        code = json.loads(server.stdout.readline())
        out.seek(0)
        err.seek(0)
        if code is None:
            raise subprocess.TimeoutExpired(words, timeout, out.read(), err.read())
        return subprocess.CompletedProcess(words, code, out.read(), err.read())


@cache
def _server() -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "ignore", __file__]
    server = subprocess.Popen(command, env=_ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(server.communicate)  # closes its input, at which it ends
    return server


def _serve() -> None:
    """Forks a process for each line of the input, and answers with its exit code, or null where it took too long."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if not child:
            break
        answers.write(json.dumps(_end(child, request["timeout"])) + "\n")
        answers.flush()
    else:
        return
    answers.close()
    for number, path in enumerate(["/dev/null", *request["streams"]]):
        opened = os.open(path, os.O_RDWR | os.O_APPEND)
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

    session.tfmot()
    for name in ("lightexp.cli.run", "lightexp.search.study", "matplotlib.backends.backend_svg", "pandas", "sklearn"):
        import_module(name)
    gc.freeze()  # or each process would write to, and so copy, all that it shares with this one
    _serve()
