"""The README's benchmarks still run; what they measure is no matter here."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from tests.readme import BENCHMARKS, ROOT, need_fashion_mnist, run


@pytest.mark.parametrize("command", BENCHMARKS)
def test_benchmarks(command):
    if Path(shlex.split(command)[1]).stem not in ("second_run", "memory", "encoding", "search_quality"):
        need_fashion_mnist()
    one = {"training": '--only "prune lenet_300_100"', "script": "--only lenet_300_100", "memory": "--only uint8"}
    done = run(f"{command} --smoke --json {one.get(Path(shlex.split(command)[1]).stem, '')}", ROOT)
    assert done.returncode == 0, done.stderr
    for result in json.loads(done.stdout)["results"]:
        # What a store saves of stages this small is noise, and may be less than nothing.
        assert result["value"] > 0 or "store_saving" in command
        assert len(result["ours"]) == 1
        alone = any(name in command for name in ("second_run", "report.py", "search_efficiency"))
        alone = alone or ("encoding" in command and result["unit"] == "s") or result["name"].startswith("one trial")
        assert len(result["theirs"]) == (not alone)


def test_every_benchmark_stands_in_the_readme():
    scripts = {path.name for path in (ROOT / "experiments/benchmarks").glob("*.py")} - {"common.py"}
    assert scripts == {Path(shlex.split(line)[1]).name for line in BENCHMARKS}
