"""A report over many synthetic records, and its page in Chromium.

Seconds and peak memory of `lightexp report` over 10,000 runs, in a process of its own that must not load TensorFlow;
and seconds until a page of 2,000 runs has opened, and until a click has sorted them.

    python experiments/benchmarks/report.py --runs 3
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from common import Result, parser, report

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "report")]
import synthetic  # noqa: E402

from lightexp.core.record import Record  # noqa: E402
from tests.report.browser import CHROMIUM, PACKAGE, Browser  # noqa: E402

MANY, SHOWN, SEEDS = 10_000, 2_000, 20
SCRIPT = """
import json, resource, sys, time
start = time.perf_counter()
from lightexp.cli.main import main
code = main(["report", *sys.argv[1:]])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
heavy = [name for name in ("tensorflow", "tf_keras", "ai_edge_litert") if name in sys.modules]
print("\\n" + json.dumps([code, time.perf_counter() - start, peak, heavy]))
"""
SORT = """new Promise((done) => { const start = performance.now();
document.querySelectorAll("#runs th button")[3].click();
requestAnimationFrame(() => setTimeout(() => done((performance.now() - start) / 1000))); })"""


def main() -> None:
    """Writes records, then reports them again and again."""
    chosen = parser(__doc__, runs=3).parse_args()
    many, shown, runs = (40, 40, 1) if chosen.smoke else (MANY, SHOWN, chosen.runs)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        outputs = synthetic.write(place / "many", _records(many))
        taken = [_report(outputs, place / "report") for _ in range(runs)]
        results = [
            Result(f"report of {many:,} runs", [s for s, _ in taken], [], "s", 20, at_least=False),
            Result(f"its peak memory, {many:,} runs", [m for _, m in taken], [], "GiB", 1.4, at_least=False),
        ]
        if CHROMIUM is None:
            print(f"the page: {PACKAGE}", file=sys.stderr)
        else:
            _report(synthetic.write(place / "fewer", _records(shown)), place / "page")
            opened = [_opened(place / "page" / "index.html", place / f"profile{n}") for n in range(runs)]
            results += [
                Result(f"page of {shown:,} runs: opened", [o for o, _ in opened], [], "s", 1, at_least=False),
                Result(f"page of {shown:,} runs: sorted", [s for _, s in opened], [], "s", 1, at_least=False),
            ]
    report(results, chosen.json)


def _records(count: int) -> Iterator[Record]:
    for n in range(count):
        sparsity = 0.1 + 0.8 * (n // SEEDS) / max(1, count // SEEDS)
        yield synthetic.record(f"row {n // SEEDS}", n % SEEDS, sparsity=sparsity, number=n)


def _report(outputs: Path, out: Path) -> tuple[float, float]:
    """Seconds and GiB of one report."""
    command = [sys.executable, "-c", SCRIPT, str(outputs), f"out={out}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"the report ended with {done.returncode}:\n{done.stderr}")
    code, seconds, peak, heavy = json.loads(done.stdout.splitlines()[-1])
    if code or heavy:
        sys.exit(f"the report ended with {code}, and loaded {heavy}:\n{done.stderr}")
    return seconds, peak


def _opened(page: Path, profile: Path) -> tuple[float, float]:
    """Seconds until a page has been loaded and drawn, and until its runs have been sorted."""
    browser = Browser(profile)
    try:
        start = time.perf_counter()
        browser.open(f"file://{page}")
        browser.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
        opened = time.perf_counter() - start
        return opened, float(browser.evaluate(SORT))
    finally:
        browser.close()


if __name__ == "__main__":
    main()
