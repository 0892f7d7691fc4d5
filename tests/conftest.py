"""Fixtures and hooks that all tests share: the order of the tests, the fast lane, and TensorFlow's set-up."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from lightexp.core import interrupt
from tests.command_server import start_warm_python
from tests.tiny_runs import TinyRuns

# Hundreds of processes import the same modules: compile these once, whatever the environment says.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

gc.disable()  # during imports and collection, where it finds nothing

# A background job of a shell ignores SIGINT, and so would every process that a test starts and interrupts.
SIGNAL_HANDLERS = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.getsignal(signal.SIGTERM)}
signal.signal(signal.SIGINT, signal.default_int_handler)

LIBRARY_VARIABLES = ("TF", "MLFLOW_DISABLE_TELEMETRY")
"""Prefixes of the environment variables that are set once in a process, with the import of a library."""

settings.register_profile("lightexp", deadline=None, max_examples=60)  # a busy machine is no failure
settings.load_profile("lightexp")

SLOW_FIXTURES = {"tensorflow", "tiny_runs"}
SLOW_FILES = (
    "tests/test_documents.py",
    "tests/test_benchmarks.py",
    "tests/search/",
    "tests/ablation/",
    "tests/cli/",
    "tests/api/",
    "tests/stages/",
)
"""Files that take minutes: their tests train, or start commands and servers. They run first, since the last one to run
leaves the other cores idle."""
PROCESS_FILES = (
    "tests/core/test_compat.py",
    "tests/execution/",
    "tests/report/test_html.py",
    "tests/report/test_page_tables.py",
    "tests/report/test_plots.py",
    "tests/report/test_write.py",
    "tests/runner/test_compose.py",
    "tests/runner/test_measures.py",
    "tests/runner/test_refusals.py",
    "tests/runner/test_run.py",
    "tests/runner/test_rungs.py",
    "tests/test_contributing.py",
    "tests/test_wheel.py",
    "tests/tracking/",
)
"""Further files whose tests start processes, servers or a browser, or draw: too slow for the fast lane."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--long`."""
    parser.addoption("--long", action="store_true", help="try all mutants of records, configs and journals")


@pytest.fixture(scope="session")
def mutants(request: pytest.FixtureRequest) -> int:
    """Number of mutants that a test of broken files tries: a second's worth, or with `--long` all of them."""
    return 1_000_000 if request.config.getoption("--long") else 150


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return the number of test processes: none beside this one for a single file.

    The complete suite takes two more than there are cores, since tests of servers, time limits and killed processes
    mostly wait.
    """
    files = {argument.partition("::")[0] for argument in config.args}
    if len(files) == 1 and Path(next(iter(files))).is_file():
        return 0
    cores = len(os.sched_getaffinity(0))
    return cores if config.option.markexpr == "fast" else cores + 2


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out files without fast tests in the fast lane: importing them takes most of the time of collecting."""
    path = f"{os.path.relpath(collection_path, config.rootpath)}/"
    return True if config.option.markexpr == "fast" and path.startswith(SLOW_FILES + PROCESS_FILES) else None


@pytest.hookimpl(tryfirst=True)  # before pytest deselects by marker
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests that need no training as `fast`, and put the slow files first."""

    def rank(item: pytest.Item) -> int:
        path = str(item.path.relative_to(config.rootpath))
        return next((n for n, prefix in enumerate(SLOW_FILES) if path.startswith(prefix)), len(SLOW_FILES))

    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        is_slow = str(item.path.relative_to(config.rootpath)).startswith(SLOW_FILES + PROCESS_FILES)
        if not is_slow and not fixtures & SLOW_FIXTURES and not item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.fast)
    items.sort(key=rank)


def pytest_collection_finish() -> None:
    """Turn garbage collection on again, but for the objects that exist now."""
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def signal_handlers_are_the_process_own() -> Iterator[None]:
    """Take back the handlers of commands that ran in this process: what they remember of a Ctrl-C ends later runs."""
    for number, handler in SIGNAL_HANDLERS.items():
        signal.signal(number, handler)
    yield
    assert not interrupt.was_requested(), "the test has asked its process to stop, and so every later run in it"


@pytest.fixture(autouse=True)
def hydra_is_not_initialized() -> Iterator[None]:
    """Clear the Hydra that a command has left in this process: a later command cannot start another."""
    yield
    if module := sys.modules.get("hydra.core.global_hydra"):
        module.GlobalHydra.instance().clear()


@pytest.fixture(autouse=True)
def environment_is_the_process_own() -> Iterator[None]:
    """Take back the variables and the folder that a command has set in this process: later commands inherit them."""
    variables, folder = dict(os.environ), os.getcwd()
    yield
    for name in {*variables, *os.environ}:
        if os.environ.get(name) == variables.get(name) or name.startswith(LIBRARY_VARIABLES):
            continue
        if name in variables:
            os.environ[name] = variables[name]
        else:
            del os.environ[name]
    os.chdir(folder)


@pytest.fixture(scope="session")
def tensorflow() -> Iterator[None]:
    """TensorFlow as lightexp sets it up, for every test that computes with it before a run does.

    TensorFlow's converter, which some tests call themselves, finds no Keras 3: it would import it for seconds.
    """
    from lightexp.backend import session

    session.start_tensorflow(len(os.sched_getaffinity(0)))
    with session.hide_keras_3():
        yield


@pytest.fixture(scope="session")
def tiny_runs(tensorflow: None, tmp_path_factory: pytest.TempPathFactory) -> TinyRuns:
    """Real runs on a tiny data set in this process, which share one store."""
    return TinyRuns(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def warm_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start the workers of the Python API, and those that they start, as forks that have imported TensorFlow."""
    python, variables = start_warm_python()
    monkeypatch.setattr(sys, "executable", python)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Report a skip as a failure where everything should be installed, as in `.ci/run`."""
    report = yield
    if report.skipped and os.environ.get("LIGHTEXP_NO_SKIPS") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
    return report
