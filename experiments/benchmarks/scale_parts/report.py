"""Runs of a report: time and memory of `lightexp report`, and opening its page in Chromium.

All runs of a study's trials are rows of their own; those of an ablation are rows of twenty seeds, which are tested and
resampled. A record has three stages of 56 metrics and a run's config, 35 KB. The page's time is that from navigation
until its first rows are drawn.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path

from common import Result
from report import time_page, time_report

from lightexp.core.metrics import Metric
from lightexp.core.record import Record
from lightexp.runner.compose import compose_settings
from tests import synthetic

COUNTS, SEEDS = (10_000, 100_000), 20
SMOKE_COUNTS = (10, 20)
_SPARSITY = 0.123456  # stands for a row's own in a template
_CLASSES = 48  # whose accuracies are measured, so that a stage has as many metrics as one of the default pipeline
_STEPS = 100  # different values of a metric among rows of one seed


def measure(smoke: bool) -> list[Result]:
    """Return time, memory and time to open of reports of many runs."""
    few, many = SMOKE_COUNTS if smoke else COUNTS
    settings = ("figures=[front]",) if smoke else ()
    with tempfile.TemporaryDirectory() as name:
        folder, costs = Path(name), {}
        for count, seeds in ((few, 1), (many, 1), (many, SEEDS)) if not smoke else ((many, 1),):
            outputs = _write_records(folder / "outputs", count, seeds)
            _report_progress(f"reporting {count:,} runs of {seeds} seeds")
            costs[count, seeds] = time_report(outputs, folder / f"report{count}_{seeds}", *settings)
            shutil.rmtree(outputs)
        results = [result for (count, seeds), cost in costs.items() for result in _rate_report(count, seeds, *cost)]
        if smoke:
            return results
        per_run = [costs[count, 1][0] / count for count in (many, few)]
        title = f"report: seconds per run, {many:,} against {few:,} runs"
        results.append(Result(title, per_run[:1], per_run[1:], "s", 1.5, at_least=False))
        return results + _measure_pages(folder, few, many)


def _rate_report(count: int, seeds: int, seconds: float, memory: float) -> list[Result]:
    title = f"report of {count:,} runs in {count // seeds:,} rows"
    return [
        Result(title, [seconds], [], "s", 120 if count > COUNTS[0] else 30, at_least=False),
        Result(f"{title}: peak memory", [memory], [], "GiB", 2, at_least=False),
    ]


def _measure_pages(folder: Path, few: int, many: int) -> list[Result]:
    chromium = shutil.which("chromium")
    if chromium is None:
        _report_progress("the page is not measured: it needs Chromium")
        return []
    results = []
    for count, limit in ((few, 2), (many, 10)):
        page = folder / f"report{count}_1" / "index.html"
        opening, sorting = time_page(chromium, page, folder / f"profile{count}")
        note = f"{page.stat().st_size / 1e6:.1f} MB"
        results.append(Result(f"page of {count:,} rows: opened", [opening], [], "s", limit, at_least=False, note=note))
        results.append(Result(f"page of {count:,} rows: sorted", [sorting], [], "s", limit, at_least=False))
    return results


def _write_records(outputs: Path, count: int, seeds: int) -> Path:
    """Write records of runs, `seeds` for each row, from texts in which numbers are replaced; return the folder."""
    start = time.perf_counter()
    templates = [_make_template(seed) for seed in range(seeds)]
    texts = [record.to_json(indent=1, ensure_ascii=False) for record in templates]
    for number in range(count):
        row, seed = divmod(number, seeds)
        record, metrics = templates[seed], templates[seed].metrics
        sparsity = 0.1 + 0.8 * row / count
        accuracy = metrics["accuracy/test"] - 0.02 * sparsity**2 - 0.005 * (row * 37 % _STEPS) / _STEPS
        run = f"2026-01-01_00-00-00-{number:06x}"
        text = texts[seed].replace(record.id, run).replace("ROW", f"row {row}").replace(str(_SPARSITY), str(sparsity))
        text = text.replace(f'"value": {metrics["accuracy/test"]},', f'"value": {accuracy},')
        size = int(metrics["size/file_bytes"] * (1 - 0.5 * sparsity))
        text = text.replace(f'"value": {metrics["size/file_bytes"]},', f'"value": {size},')
        path = outputs / "runs" / run
        path.mkdir(parents=True)
        (path / "record.json").write_text(text, encoding="utf-8")
    _report_progress(f"{count:,} records written in {time.perf_counter() - start:.0f} s")
    return outputs


def _make_template(seed: int) -> Record:
    """Return a record as large as those of the default pipeline."""
    config = compose_settings([f"seed={seed}", f"pipeline.stages.prune.sparsity={_SPARSITY}"]).plain
    record = synthetic.synthesize_record("ROW", seed, sparsity=_SPARSITY, config=dict(config))
    for stage in record.stages:
        stage.metrics += [Metric(f"accuracy/class/{n}", 1 - n / 997, "", "max", "val") for n in range(_CLASSES)]
    return record


def _report_progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
