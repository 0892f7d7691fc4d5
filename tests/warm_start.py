"""Have a program run by the command server: what takes the place of Python and `lightexp` in processes it has forked.

The server puts this file, as an executable, into the folder of `sys.executable`. It asks the server for a fork that
runs the program with the caller's streams, passes signals on to it and ends as it ends; if this process is killed,
so is the fork. Programs that the server cannot run are started as usual. It imports little, since it is started often.
"""

from __future__ import annotations

import array
import json
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence

SERVER_VARIABLE = "LIGHTEXP_TEST_SERVER"
"""Environment variable: the server's socket."""
PYTHON_VARIABLE = "LIGHTEXP_TEST_PYTHON"
"""Environment variable: the interpreter itself."""
MLFLOW_PROGRAMS = (["-P", "-m", "lightexp.tracking.worker"], ["lightexp", "track"])
"""What runs in forks of a process with MLflow, whose libraries conflict with TensorFlow's."""
_PASSED_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


def connect(path: str, command: Sequence[str]) -> socket.socket:
    """Connect to the server, or to the one with MLflow for a program that needs it."""
    connection = socket.socket(socket.AF_UNIX)
    program = [os.path.basename(command[0]), *command[1:]]
    needs_mlflow = any(program[: len(start)] == start for start in MLFLOW_PROGRAMS)
    connection.connect(f"{path}.mlflow" if needs_mlflow else path)
    return connection


def request_fork(
    connection: socket.socket, command: Sequence[str], cwd: str, environment: Mapping[str, str], streams: Sequence[int]
) -> None:
    """Ask for a fork that runs a command.

    Args:
        connection: The connection to the server. The fork is killed if it is closed early.
        command: The program, its options and arguments.
        cwd: The current folder.
        environment: The environment variables.
        streams: Descriptors of standard input, output and error.
    """
    leads = os.getsid(0) == os.getpid()
    request = {"command": list(command), "cwd": cwd, "environment": dict(environment), "leads_session": leads}
    descriptors = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", streams))]
    connection.sendmsg([b"\0"], descriptors)
    connection.sendall(json.dumps(request).encode() + b"\n")


def main() -> None:
    """Run this process's command line in a fork, or as usual."""
    environment, arguments = dict(os.environ), sys.argv[1:]
    is_command = os.path.basename(sys.argv[0]) == "lightexp"
    module = arguments[2] if arguments[:2] == ["-P", "-m"] else ""
    is_worker = module.startswith("lightexp.") and not module.startswith("lightexp.execution.")  # which are light
    is_script = arguments[:1] and arguments[0].endswith(".py") and "site-packages" not in arguments[0]  # as Ray's
    if not (is_command or is_worker or is_script):
        # The folder's `sitecustomize` makes workers forks that this program starts, such as a launcher's job.
        modules = filter(None, [os.path.dirname(sys.argv[0]), environment.get("PYTHONPATH")])
        environment["PYTHONPATH"] = os.pathsep.join(modules)
        os.execve(environment[PYTHON_VARIABLE], [environment[PYTHON_VARIABLE], *arguments], environment)
    command = sys.argv if is_command else arguments
    connection = connect(environment[SERVER_VARIABLE], command)
    for number in _PASSED_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, _: connection.sendall(bytes([number])))
    request_fork(connection, command, os.getcwd(), environment, [0, 1, 2])
    for descriptor in (0, 1, 2):  # else the fork's reader would wait for this process to close them
        os.close(descriptor)
    answer = connection.recv(100)
    exit_code = json.loads(answer) if answer else -signal.SIGKILL
    if exit_code < 0:
        if -exit_code != signal.SIGKILL:
            signal.signal(-exit_code, signal.SIG_DFL)
        os.kill(os.getpid(), -exit_code)
    os._exit(exit_code)


if __name__ == "__main__":
    main()
