"""Everything that a report leaves in its folder."""

from __future__ import annotations

from pathlib import Path

from lightexp.report import html, plots, tables
from lightexp.report.summary import Report

PAGE = "index.html"


def write_report(report: Report, folder: Path) -> list[Path]:
    """Writes tables, figures and the page into a folder, each whole or not at all.

    Returns:
        What was written, the page first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawn = plots.draw_plots(report)
    files: dict[str, bytes] = {
        PAGE: html.render_page(report, {name: formats["svg"] for name, formats in drawn.items()}).encode(),
        "table.md": tables.render_markdown(report).encode(),
        "table.tex": tables.render_latex(report).encode(),
        "table.csv": tables.render_csv(report).encode(),
        "runs.csv": tables.render_runs_csv(report.runs).encode(),
    }
    for name, formats in drawn.items():
        files |= {f"{name}.{kind}": content for kind, content in formats.items()}
    for name, content in files.items():
        draft = folder / f".{name}.tmp"
        draft.write_bytes(content)
        draft.replace(folder / name)
    return [folder / name for name in files]
