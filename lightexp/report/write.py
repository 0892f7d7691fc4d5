"""Write a report into a folder: the page, its tables and its plots."""

from __future__ import annotations

from pathlib import Path

from lightexp.core.regular_files import replace_file
from lightexp.report import csv_files, documents, html, latex, plots
from lightexp.report.data import Report

PAGE = "index.html"


def write_report(report: Report, folder: Path) -> list[Path]:
    """Write tables, plots and the page; each file appears complete or not at all.

    Args:
        report: The report.
        folder: Folder for the files, made if it does not exist.

    Returns:
        The paths of the files, the page first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawn = plots.draw_plots(report)
    contents: dict[str, bytes] = {
        PAGE: html.render_page(report, drawn).encode(),
        "table.md": documents.render_markdown_document(report).encode(),
        "table.tex": latex.render_latex_document(report).encode(),
        "table.csv": csv_files.render_statistics_csv(report).encode(),
        "runs.csv": csv_files.render_runs_csv(report.runs).encode(),
    }
    for name, plot in drawn.items():
        contents |= {f"{name}{ending}": content for ending, content in plot.files.items()}
    for name, content in contents.items():
        replace_file(folder / name, content)
    return [folder / name for name in contents]
