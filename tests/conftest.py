"""What all tests share."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Generator

import pytest
from hypothesis import settings

from tests.tiny_runs import TinyRuns

# Hundreds of processes import the same modules: they are compiled once, whatever the environment says.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

gc.disable()  # until all is imported and collected, in which it would find nothing

settings.register_profile("lightexp", deadline=None, max_examples=60)  # a busy machine is no failure
settings.load_profile("lightexp")


SLOW = [
    "test_readme.py",
    "test_readme_benchmarks.py",
    "tests/search/",
    "tests/ablation/",
    "tests/cli/",
    "tests/stages/",
]
"""Files that take minutes each: whoever comes last works alone, so they come first."""


def pytest_xdist_auto_num_workers() -> int:
    """Two processes more than there are processors: tests of servers, time limits and killed processes wait a lot."""
    return len(os.sched_getaffinity(0)) + 2


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the slow files first."""

    def rank(item: pytest.Item) -> int:
        return next((n for n, words in enumerate(SLOW) if words in str(item.path)), len(SLOW))

    items.sort(key=rank)


def pytest_collection_finish() -> None:
    """Has garbage collected from here on, but not looked for in what is there now."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def tensorflow() -> None:
    """TensorFlow as lightexp sets it up; to be asked for by every test that computes with it before a run does."""
    from lightexp.backend import session

    session.start_tensorflow(len(os.sched_getaffinity(0)))


@pytest.fixture(scope="session")
def tiny_runs(tensorflow: None, tmp_path_factory: pytest.TempPathFactory) -> TinyRuns:
    """Real runs on a tiny data set in this process, all over one store."""
    return TinyRuns(tmp_path_factory.mktemp("tiny"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where everything is said to be installed (`.ci/run`), a skip is a failure."""
    report = yield
    if report.skipped and os.environ.get("LIGHTEXP_NO_SKIPS") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
    return report
