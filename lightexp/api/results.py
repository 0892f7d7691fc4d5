"""What `lightexp.search`, `lightexp.ablate` and `lightexp.report` return."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightexp.core.formatting import escape_html, unescape_csv
from lightexp.core.records import FRONT_FILE
from lightexp.core.regular_files import read_text

if TYPE_CHECKING:
    import pandas

_RUNS, _TABLE, _PAGE = "runs.csv", "table.csv", "index.html"


@dataclass(frozen=True)
class SearchResult:
    """A study after `lightexp.search`.

    Attributes:
        folder: The study's folder: `front.json`, `front.md`, figures, a config and a model for each point of the front.

    Example:
        >>> result = lightexp.search("search.trials=20")  # doctest: +SKIP
        >>> result.frame.sort_values("size/file_bytes")  # doctest: +SKIP
    """

    folder: Path

    @cached_property
    def frame(self) -> pandas.DataFrame:
        """The trade-off front: `trial`, `picks`, `varied`, `command`, then the metrics. One row for each point."""
        import pandas

        points: list[dict[str, Any]] = json.loads(read_text(self.folder / FRONT_FILE))["front"]
        rows = [
            {
                "trial": point["trial"],
                "picks": ", ".join(point.get("picks", [])),  # absent in version 0.1
                "varied": " ".join(point["varied"]),
                "command": point["command"],
                **point.get("metrics", point.get("figures", {})),  # their name in version 0.1
            }
            for point in points
        ]
        return pandas.DataFrame(rows, columns=None if rows else ["trial", "picks", "varied", "command"])

    @cached_property
    def trials(self) -> pandas.DataFrame:
        """All trials of the study, as `lightexp.records` returns them."""
        from lightexp.api.records import records

        return records(self.folder)

    @property
    def files(self) -> list[Path]:
        """The files of the study's folder and of its front."""
        return _list_files(self.folder, self.folder / "front")

    def _repr_html_(self) -> str:
        return _render_frame(f"Front of the study {self.folder.name}", self.frame)


@dataclass(frozen=True)
class ReportResult:
    """A report after `lightexp.report` or `lightexp.ablate`.

    Attributes:
        folder: The report's folder: `index.html`, `table.md`, `table.tex`, `table.csv`, `runs.csv` and figures.

    Example:
        >>> result = lightexp.report("outputs")  # doctest: +SKIP
        >>> result.frame.groupby("row")["accuracy/test"].mean()  # doctest: +SKIP
    """

    folder: Path

    @cached_property
    def frame(self) -> pandas.DataFrame:
        """The runs: `id`, `row`, `seed`, `host`, `command`, metrics, settings that vary. One row for each run."""
        return _read_csv(self.folder / _RUNS)

    @cached_property
    def statistics(self) -> pandas.DataFrame:
        """The statistics of each row and metric over its seeds, and of the difference from the control."""
        return _read_csv(self.folder / _TABLE)

    @property
    def page(self) -> Path:
        """The HTML page, which opens without a network."""
        return self.folder / _PAGE

    @property
    def files(self) -> list[Path]:
        """The files of the report."""
        return _list_files(self.folder)

    def _repr_html_(self) -> str:
        means = self.statistics.pivot_table(index="row", columns="measurement", values="mean", sort=False)
        return _render_frame(f"Means over seeds; the report is in {self.folder}", means.reset_index())


def _read_csv(path: Path) -> pandas.DataFrame:
    """Read a report's table; texts that a spreadsheet must not compute are quoted there (`escape_csv`)."""
    import pandas

    frame = pandas.read_csv(path)
    return frame.rename(columns=unescape_csv).map(unescape_csv)


def _list_files(*folders: Path) -> list[Path]:
    return sorted(path for folder in folders if folder.is_dir() for path in folder.iterdir() if path.is_file())


def _render_frame(caption: str, frame: pandas.DataFrame) -> str:
    return f"<p>{escape_html(caption)}</p>\n{frame.to_html(index=False, border=0)}"
