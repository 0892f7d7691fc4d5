"""How costs grow: trials, workers, store entries, MLflow runs, rows of a report, rows of an ablation, images.

Each part makes what it measures at several sizes and compares the largest with the smallest, or with the goal that its
line names. Growth of 1 means that size costs nothing.

    python experiments/benchmarks/scale.py
    python experiments/benchmarks/scale.py --only store
    python experiments/benchmarks/scale.py --only store --smoke

It needs the test dependencies (`pip install -e '.[test]'`), some parts also Debian's packages postgresql and chromium.
"""

from __future__ import annotations

import ast
import importlib
import sys
from pathlib import Path

from common import Result, make_parser, print_results

FOLDER = Path(__file__).parent / "scale_parts"
PARTS = sorted(path.stem for path in FOLDER.glob("[!_]*.py"))


def main() -> None:
    """Measure the chosen parts and print their results."""
    lines = [f"    {part:<12}{describe_part(part)}" for part in PARTS]
    parser = make_parser("\n".join([str(__doc__), "Parts:", *lines]))
    parser.add_argument("--only", choices=PARTS, action="append", help="one part; may be repeated (default: all)")
    options = parser.parse_args()
    results: list[Result] = []
    for part in options.only or PARTS:
        results += measure_part(part, options.smoke)
    print_results(results, options.json)


def measure_part(part: str, smoke: bool) -> list[Result]:
    """Return the results of a part; none, with a line that says why, where the machine lacks what it needs."""
    try:
        import pytest

        module = importlib.import_module(f"scale_parts.{part}")
    except ModuleNotFoundError as error:
        raise SystemExit(f"scale.py needs the test dependencies ({error}): pip install -e '.[test]'") from None
    try:
        results: list[Result] = module.measure(smoke)
    except pytest.skip.Exception as reason:
        print(f"{part}: not measured, {reason}", file=sys.stderr)
        return []
    return results


def describe_part(part: str) -> str:
    """Return the first line of a part's documentation, without importing it."""
    module = ast.parse((FOLDER / f"{part}.py").read_text(encoding="utf-8"))
    return str(ast.get_docstring(module)).splitlines()[0]


if __name__ == "__main__":
    main()
