"""Two sets of runs beside each other: what differs in their settings, and in their figures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from lightexp.core.columns import COLUMNS
from lightexp.core.errors import BadInput
from lightexp.report.runs import Run
from lightexp.report.statistics import Difference, compare_paired, summarize
from lightexp.report.summary import format_cell, is_ratio


def compare_runs(first: Sequence[Run], second: Sequence[Run]) -> tuple[list[tuple[str, str, str]], list[list[str]]]:
    """Compares rows of one name, or the only rows of both, paired by seed.

    Returns:
        Settings that differ, as (name, first's, second's); and a table's lines: row, measurement, both means, and the
        second's difference to the first with its 95% t interval and p.

    Raises:
        BadInput: If they have no row in common.
    """
    rows = [_by_row(first), _by_row(second)]
    common = [(name, name) for name in rows[0] if name in rows[1]]
    if not common and len(rows[0]) == len(rows[1]) == 1:
        common = [(next(iter(rows[0])), next(iter(rows[1])))]
    if not common:
        names = [", ".join(list(one)[:8]) for one in rows]
        raise BadInput(f"--compare: the two have no row in common. The first has: {names[0]}. The second: {names[1]}.")
    settings: dict[tuple[str, str, str], None] = {}
    lines = []
    for a, b in common:
        one, other = rows[0][a], rows[1][b]
        before, after = next(iter(one.values())).settings, next(iter(other.values())).settings
        for name in {**before, **after}:
            if before.get(name) != after.get(name):
                settings[name, before.get(name, "–"), after.get(name, "–")] = None
        for column in COLUMNS:
            ratio = is_ratio(column.name)
            x = {seed: run.metrics[column.name] for seed, run in one.items() if column.name in run.metrics}
            y = {seed: run.metrics[column.name] for seed, run in other.items() if column.name in run.metrics}
            if x and y:
                means = [format_cell(column, summarize(list(values.values()), ratio)) for values in (x, y)]
                label = a if a == b else f"{a} / {b}"
                lines.append([label, column.heading, *means, *_told(compare_paired(y, x, ratio), ratio)])
    return list(settings), lines


def _by_row(runs: Sequence[Run]) -> dict[str, dict[int, Run]]:
    found: defaultdict[str, dict[int, Run]] = defaultdict(dict)
    for run in runs:
        found[run.row][run.seed] = run
    return found


def _told(found: Difference | None, ratio: bool) -> tuple[str, str]:
    if found is None:
        return "no seed in common", "–"
    shape = "x{:.4g}" if ratio else "{:+.4g}"
    words = shape.format(found.mean)
    if found.low is not None and found.high is not None:
        words += f" [{shape.format(found.low)}, {shape.format(found.high)}]"
    return words, "–" if found.p is None else f"{found.p:.4f}"
