"""`lightexp ui`: serve MLflow's pages on the runs, or optuna-dashboard's on a study."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import sys
import sysconfig
import tempfile
import time
import urllib.request
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from lightexp.cli.arguments import Arguments
from lightexp.cli.printing import print_line
from lightexp.core import interrupt
from lightexp.core.errors import BadInput, RunFailed
from lightexp.execution.process import WorkerProcess

_HELP = """Start MLflow's pages on the runs' store, and print the address. Ctrl-C ends it.

  lightexp ui                               outputs/mlflow.db, at http://127.0.0.1:5000
  lightexp ui --port 8080                   another port; 0 takes any free one
  lightexp ui --host 0.0.0.0                open to everybody who can reach this machine: MLflow asks for no password
  lightexp ui paths.outputs=FOLDER          the runs of another folder of outputs
  lightexp ui tracking.uri=sqlite:///FILE   another store
  lightexp ui --optuna search.study=NAME    optuna-dashboard on a study instead; or search.storage=postgresql://...

Which host names MLflow answers to is set by the environment variable MLFLOW_SERVER_ALLOWED_HOSTS. Exit codes: 0 done,
1 it could not start, 2 bad input."""
_START_LIMIT_S = 120.0
_CLOSE_GRACE_S = 20.0  # the supervisor kills the server after half of it
_QUIET_MLFLOW = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
_NO_CURRENT_FOLDER = f"--app-dir {shlex.quote(sysconfig.get_path('stdlib'))}"
"""Options of uvicorn, which would otherwise import from the current folder first."""
_RUN_DASHBOARD = """
import optuna_dashboard, sys
optuna_dashboard.run_server(sys.argv[1], sys.argv[2], int(sys.argv[3]))
"""


def make_parser() -> Arguments:
    """Make the parser of `lightexp ui`."""
    parser = Arguments("ui", description=_HELP).add_config_dir()
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen at. Defaults to 127.0.0.1")
    parser.add_argument("--port", type=int, default=5000, help="the port; 0 for any free one. Defaults to 5000")
    parser.add_argument("--optuna", action="store_true", help="optuna-dashboard, on a study of lightexp search")
    return parser


def run(argv: list[str]) -> int:
    """Run `lightexp ui` and return the exit code.

    Args:
        argv: The command line after `ui`.
    """
    options, overrides = make_parser().read(argv)
    from lightexp.runner.compose import compose_settings
    from lightexp.tracking import stores
    from lightexp.tracking.mlflow import Mlflow

    if options.optuna:
        return _serve_dashboard(overrides, options.host, options.port)
    settings = compose_settings(overrides)
    if not isinstance(settings.tracking, Mlflow):
        raise BadInput("ui shows what MLflow has. Received: tracking=none. Leave it out, or set tracking.uri=URI.")
    uri = stores.resolve_uri(settings.tracking.uri, settings.outputs)
    if not stores.is_database(uri):
        print_line(f"{uri} is already a server: open it in a browser.")
        return 0
    if (file := stores.get_database_file(uri)) and not file.is_file():
        problem = "is no file" if os.path.lexists(file) else "does not exist"
        raise BadInput(f"{file} {problem}: nothing has been run into it. Set paths.outputs=FOLDER, or run first.")
    port = _find_port(options.host, options.port)
    command = [sys.executable, "-P", "-m", "mlflow", "server", "--host", options.host, "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", uri, "--uvicorn-opts", _NO_CURRENT_FOLDER]
    command += ["--artifacts-destination", str(settings.outputs / "mlartifacts")]
    return _serve(command, options.host, port, "health", f"MLflow, over {uri}")


def _serve_dashboard(overrides: list[str], host: str, port: int) -> int:
    from lightexp.search import storage
    from lightexp.search.study_spec import StudySpec

    if find_spec("optuna_dashboard") is None:
        raise BadInput("--optuna needs optuna-dashboard: pip install 'lightexp[dashboard]'.")
    spec = StudySpec(overrides, [])
    address = storage.resolve_address(spec.search.storage, spec.folder)
    if not storage.count_trials(spec.search.storage, spec.folder, spec.name):
        studies = sorted(path.parent.name for path in spec.folder.parent.glob(f"*/{storage.JOURNAL}"))
        existing = f" The studies are: {', '.join(studies)}." if studies else ""
        raise BadInput(
            f"{address} has no study '{spec.name}'.{existing} Set search.study=NAME, or paths.outputs=FOLDER."
        )
    port = _find_port(host, port)
    command = [sys.executable, "-P", "-c", _RUN_DASHBOARD, address, host, str(port)]
    return _serve(command, host, port, "api/meta", f"optuna-dashboard, over {address}")


def _find_port(host: str, port: int) -> int:
    """Return the port if a server can listen at it; for 0, return a free one."""
    if not 0 <= port < 2**16:
        raise BadInput(f"--port goes from 0 (any free one) to 65535. Received: {port}.")
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: an earlier one may linger
            probe.bind(address)
            return int(probe.getsockname()[1])
    except OSError as error:
        raise BadInput(
            f"no server can listen at {host}:{port}: {error.strerror}. Choose another --port (0: any) or --host."
        ) from None


def _serve(command: list[str], host: str, port: int, page: str, title: str) -> int:
    """Run a server until the user ends it, and print its address once it answers.

    Args:
        command: The server's command.
        host: The address that it listens at.
        port: The port that it listens at.
        page: A page that it answers, to tell when it has started.
        title: What it shows.
    """
    print_line(f"Starting {title.partition(',')[0]}, which takes some seconds ...", sys.stderr)
    interrupt.install_handlers()
    signal.signal(signal.SIGHUP, signal.getsignal(signal.SIGTERM))  # the terminal was closed
    shown_host = f"[{host}]" if ":" in host else host
    reachable_host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, shown_host)
    with tempfile.TemporaryDirectory(prefix="lightexp-ui-") as folder:
        log = Path(folder) / "log"
        environment = {**os.environ, **_QUIET_MLFLOW}
        with log.open("wb") as file:
            server = WorkerProcess("lightexp.execution.supervisor", *command, stderr=file, environment=environment)
        try:
            _wait_until_started(server, f"http://{reachable_host}:{port}/{page}", log)
            print_line(f"http://{shown_host}:{port}  {title}. Ctrl-C ends it.")
            server.wait()
        except KeyboardInterrupt:
            return 0
        finally:
            server.close(_CLOSE_GRACE_S)
        raise RunFailed(f"The server has ended: {_summarize_log(log)}")


def _wait_until_started(server: WorkerProcess, address: str, log: Path) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    end = time.monotonic() + _START_LIMIT_S
    while server.is_running and time.monotonic() < end:
        with suppress(OSError), opener.open(address, timeout=2):
            return
        time.sleep(0.1)
    raise RunFailed(f"The server did not start: {_summarize_log(log)}")


def _summarize_log(log: Path) -> str:
    """Return the last line that a server has written, and the name of a file with all of them."""
    copy = Path(tempfile.mkstemp(prefix="lightexp-", suffix=".txt")[1])
    shutil.copyfile(log, copy)
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f"{lines[-1] if lines else 'it printed nothing'} (all of it is in {copy})"
