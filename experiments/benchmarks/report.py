"""Benchmark of `lightexp report` over many synthetic records, and of its page in Chromium.

Measures seconds and peak memory of `lightexp report` over 10,000 runs, in a process of its own that must not load
TensorFlow; then seconds until a page of 2,000 runs has opened, and until a click has sorted them.

    python experiments/benchmarks/report.py --runs 3
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from common import Result, make_parser, print_results

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
from lightexp.core.record import Record  # noqa: E402
from tests import synthetic  # noqa: E402
from tests.report.browser import Browser  # noqa: E402
from tests.system_packages import PROGRAMS  # noqa: E402

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
    """Write records, then report them again and again."""
    options = make_parser(__doc__, runs=3).parse_args()
    many, shown, runs = (40, 40, 1) if options.smoke else (MANY, SHOWN, options.runs)
    chromium = shutil.which("chromium")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        outputs = synthetic.write_records(folder / "many", _make_records(many))
        reports = [time_report(outputs, folder / "report") for _ in range(runs)]
        results = [
            Result(f"report of {many:,} runs", [seconds for seconds, _ in reports], [], "s", 20, at_least=False),
            Result(f"its peak memory, {many:,} runs", [peak for _, peak in reports], [], "GiB", 1.4, at_least=False),
        ]
        if chromium is None:
            print(f"the page is not measured: it needs the Debian package {PROGRAMS['chromium']}", file=sys.stderr)
        else:
            pages = folder / "report"
            if shown != many:
                pages = folder / "page"
                time_report(synthetic.write_records(folder / "fewer", _make_records(shown)), pages)
            times = [time_page(chromium, pages / "index.html", folder / f"profile{n}") for n in range(runs)]
            results += [
                Result(
                    f"page of {shown:,} runs: opened", [opening for opening, _ in times], [], "s", 1, at_least=False
                ),
                Result(
                    f"page of {shown:,} runs: sorted", [sorting for _, sorting in times], [], "s", 1, at_least=False
                ),
            ]
    print_results(results, options.json)


def _make_records(count: int) -> Iterator[Record]:
    for n in range(count):
        sparsity = 0.1 + 0.8 * (n // SEEDS) / max(1, count // SEEDS)
        yield synthetic.synthesize_record(f"row {n // SEEDS}", n % SEEDS, sparsity=sparsity, number=n)


def time_report(outputs: Path, out: Path, *settings: str) -> tuple[float, float]:
    """Return seconds and GiB of one report."""
    command = [sys.executable, "-c", SCRIPT, str(outputs), f"out={out}", *settings]
    process = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    if process.returncode:
        sys.exit(f"the report ended with {process.returncode}:\n{process.stderr}")
    code, seconds, peak, heavy = json.loads(process.stdout.splitlines()[-1])
    if code or heavy:
        sys.exit(f"the report ended with {code}, and loaded {heavy}:\n{process.stderr}")
    return seconds, peak


def time_page(chromium: str, page: Path, profile: Path) -> tuple[float, float]:
    """Return seconds until a page has been loaded and drawn, and until its runs have been sorted."""
    browser = Browser(chromium, profile)
    try:
        start = time.perf_counter()
        browser.open(f"file://{page}")
        browser.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
        opening = time.perf_counter() - start
        return opening, float(browser.evaluate(SORT))
    finally:
        browser.close()


if __name__ == "__main__":
    main()
