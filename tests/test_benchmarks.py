"""Run the documented benchmarks; what they measure does not matter here."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from tests.documents import BENCHMARKS, ROOT, need_fashion_mnist, run

SMALLER = {"training": '--only "prune lenet_300_100"', "script": "--only lenet_300_100", "memory": "--only uint8"}
WITHOUT_FASHION_MNIST = ("answering", "second_run", "memory", "encoding", "search_quality", "faults", "scale")
WITHOUT_FASHION_MNIST += ("cost_model",)


def get_name(command: str) -> str:
    """Return the name of a benchmark's script."""
    return Path(shlex.split(command)[1]).stem


@pytest.mark.parametrize("command", BENCHMARKS)
def test_benchmark_runs(command: str) -> None:
    if get_name(command) not in WITHOUT_FASHION_MNIST:
        need_fashion_mnist()
    done = run(f"{command} --smoke --json {SMALLER.get(get_name(command), '')}", ROOT)
    assert done.returncode == 0, done.stderr
    for result in json.loads(done.stdout)["results"]:
        if get_name(command) in ("scale", "cost_model"):  # its parts compare sizes, each in its own way
            continue
        # The time that a store saves on stages this small is noise and may be negative.
        assert result["value"] > 0 or "store_saving" in command
        assert len(result["ours"]) == 1
        alone = any(name in command for name in ("answering", "second_run", "report.py", "search_efficiency", "faults"))
        alone = alone or ("encoding" in command and result["unit"] == "s") or result["name"].startswith("one trial")
        assert len(result["theirs"]) == (not alone)


def test_documents_list_every_benchmark() -> None:
    scripts = {path.stem for path in (ROOT / "experiments/benchmarks").glob("*.py")} - {"common"}
    assert scripts == {get_name(line) for line in BENCHMARKS}
