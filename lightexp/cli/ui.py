"""`lightexp ui`: MLflow's pages over the runs, or optuna-dashboard's over a study."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
import tempfile
import time
import urllib.request
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from lightexp.cli.arguments import Arguments
from lightexp.core import interrupt
from lightexp.core.errors import BadInput, RunFailed
from lightexp.execution.process import WorkerProcess
from lightexp.runner.compose import compose_settings
from lightexp.tracking import stores
from lightexp.tracking.mlflow import Mlflow

_HELP = """Starts MLflow's pages on the runs' own store, and prints the address. Ctrl-C ends it.

  lightexp ui                               outputs/mlflow.db, at http://127.0.0.1:5000
  lightexp ui --port 8080                   another port; 0 takes any that is free
  lightexp ui --host 0.0.0.0                open to everybody who can reach this machine: MLflow asks for no password
  lightexp ui paths.outputs=FOLDER          the runs of another folder of outputs
  lightexp ui tracking.uri=sqlite:///FILE   another store
  lightexp ui --optuna search.study=NAME    optuna-dashboard on a study instead; or search.storage=postgresql://...

Which names of this machine MLflow answers to is its own setting, MLFLOW_SERVER_ALLOWED_HOSTS. Exit codes: 0 done, 1 it
could not start, 2 bad input."""

_PATIENCE = 120  # seconds for it to start in
_ENDING = 10  # seconds for it to end in


def make_parser() -> Arguments:
    """The command's flags."""
    made = Arguments("ui", description=_HELP).add_config_dir()
    made.add_argument("--host", default="127.0.0.1", help="the address to listen at. Defaults to 127.0.0.1")
    made.add_argument("--port", type=int, default=5000, help="the port; 0 for any that is free. Defaults to 5000")
    made.add_argument("--optuna", action="store_true", help="optuna-dashboard, on the study that lightexp search has")
    return made


def run(words: list[str]) -> int:
    """Runs `lightexp ui` and returns the exit code."""
    flags, overrides = make_parser().read(words)
    if flags.optuna:
        return _dashboard(overrides, flags.host, flags.port)
    chosen = compose_settings(overrides)
    if not isinstance(chosen.tracking, Mlflow):
        raise BadInput("ui shows what MLflow has. Received: tracking=none. Leave it out, or set tracking.uri=URI.")
    uri = stores.resolve_uri(chosen.tracking.uri, chosen.outputs)
    if not stores.is_database(uri):
        print(f"{uri} is a server of its own: open it in a browser.")
        return 0
    if (file := stores.get_database_file(uri)) and not file.exists():
        raise BadInput(f"{file} is not there, as nothing has been run into it. Set paths.outputs=FOLDER, or run first.")
    port = _free(flags.host, flags.port)
    command = [sys.executable, "-P", "-m", "mlflow", "server", "--host", flags.host, "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", uri]
    command += ["--artifacts-destination", str(chosen.outputs / "mlartifacts")]
    return _serve(command, flags.host, port, "health", f"MLflow, over {uri}")


def _dashboard(overrides: list[str], host: str, port: int) -> int:
    from lightexp.search import storage
    from lightexp.search.study_spec import StudySpec

    if find_spec("optuna_dashboard") is None:
        raise BadInput("--optuna needs optuna-dashboard: pip install 'lightexp[dashboard]'.")
    job = StudySpec(overrides, [])
    place = storage.resolve_address(job.search.storage, job.folder)
    if not storage.count_trials(job.search.storage, job.folder, job.name):
        there = sorted(path.parent.name for path in job.folder.parent.glob(f"*/{storage.JOURNAL}"))
        words = f" There are: {', '.join(there)}." if there else ""
        raise BadInput(f"{place} has no study '{job.name}'.{words} Set search.study=NAME, or paths.outputs=FOLDER.")
    port = _free(host, port)
    words = "import optuna_dashboard, sys; optuna_dashboard.run_server(sys.argv[1], sys.argv[2], int(sys.argv[3]))"
    command = [sys.executable, "-P", "-c", words, place, host, str(port)]
    return _serve(command, host, port, "api/meta", f"optuna-dashboard, over {place}")


def _free(host: str, port: int) -> int:
    """The port, if it can be listened at; for 0 one that is free."""
    if not 0 <= port < 2**16:
        raise BadInput(f"--port goes from 0 (any that is free) to 65535. Received: {port}.")
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: one that has ended lingers
            probe.bind(address)
            return int(probe.getsockname()[1])
    except OSError as error:
        raise BadInput(
            f"{host}:{port} cannot be listened at: {error.strerror}. Choose another --port (0: any) or --host."
        ) from None


def _serve(command: list[str], host: str, port: int, page: str, what: str) -> int:
    """Runs a server until it is to end, and says where it is once it answers."""
    interrupt.install_handlers()
    signal.signal(signal.SIGHUP, signal.getsignal(signal.SIGTERM))  # the terminal was closed
    quiet = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    shown = f"[{host}]" if ":" in host else host
    here = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, shown)
    with tempfile.TemporaryDirectory(prefix="lightexp-ui-") as folder:
        log = Path(folder) / "log"
        with log.open("wb") as file:
            server = WorkerProcess("lightexp.execution.supervisor", *command, stderr=file, environment=quiet)
        try:
            _wait(server, f"http://{here}:{port}/{page}", log)
            print(f"http://{shown}:{port}  {what}. Ctrl-C ends it.", flush=True)
            server.wait()
        except KeyboardInterrupt:
            return 0
        finally:
            server.close(2 * _ENDING)
        raise RunFailed(f"The server has ended: {_last_words(log)}")


def _wait(server: WorkerProcess, address: str, log: Path) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    end = time.monotonic() + _PATIENCE
    while server.is_running and time.monotonic() < end:
        with suppress(OSError), opener.open(address, timeout=2):
            return
        time.sleep(0.1)
    raise RunFailed(f"The server did not start: {_last_words(log)}")


def _last_words(log: Path) -> str:
    """The end of what it has written, of which the whole is kept."""
    kept = Path(tempfile.mkstemp(prefix="lightexp-", suffix=".txt")[1])
    shutil.copyfile(log, kept)
    lines = log.read_text(errors="replace").strip().splitlines()
    return f"{lines[-1] if lines else 'it said nothing'} (all of it is in {kept})"
