"""Everything that a report leaves in its folder."""

from __future__ import annotations

from pathlib import Path

from lightexp.report import figures, page, tables
from lightexp.report.summary import Report

PAGE = "index.html"


def write(report: Report, folder: Path) -> list[Path]:
    """Writes tables, figures and the page into a folder, each whole or not at all.

    Returns:
        What was written, the page first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawn = figures.draw(report)
    files: dict[str, bytes] = {
        PAGE: page.page(report, {name: formats["svg"] for name, formats in drawn.items()}).encode(),
        "table.md": tables.as_markdown(report).encode(),
        "table.tex": tables.as_latex(report).encode(),
        "table.csv": tables.as_csv(report).encode(),
        "runs.csv": tables.runs_csv(report.runs).encode(),
    }
    for name, formats in drawn.items():
        files |= {f"{name}.{kind}": content for kind, content in formats.items()}
    for name, content in files.items():
        draft = folder / f".{name}.tmp"
        draft.write_bytes(content)
        draft.replace(folder / name)
    return [folder / name for name in files]
