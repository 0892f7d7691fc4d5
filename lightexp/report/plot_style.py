"""Style that all plots share: Okabe and Ito's colour-blind safe palette, rc settings, and reproducible files."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from lightexp.core.compat import omit_layout_tables
from lightexp.core.regular_files import replace_file

BLACK, BLUE, VERMILION, GREEN = "#000000", "#0072B2", "#D55E00", "#009E73"
PURPLE, ORANGE, SKY_BLUE, GREY = "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F"
PALETTE = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY_BLUE, BLACK, GREY)

_COMMON: dict[Any, Any] = {
    "svg.hashsalt": "lightexp",  # otherwise every file has different ids
    "text.usetex": False,
    "text.parse_math": False,  # a name may hold a dollar sign
}
RUN_STYLE: dict[Any, Any] = {**_COMMON, "svg.fonttype": "none", "axes.axisbelow": True, "legend.frameon": False}
"""Style of the plots of one run and of a search: text stays text."""
REPORT_STYLE: dict[Any, Any] = {
    **_COMMON,
    **dict.fromkeys(
        ("font.size", "axes.titlesize", "axes.labelsize", "xtick.labelsize", "ytick.labelsize", "legend.fontsize"), 8
    ),
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "legend.handlelength": 1.5,
    "legend.columnspacing": 1.2,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "pdf.fonttype": 42,
}
"""Style of a report's plots: text becomes outlines, so that it prints the same everywhere."""


@contextmanager
def use_style(style: dict[Any, Any]) -> Iterator[None]:
    """Apply a style while plots are drawn and saved."""
    import matplotlib

    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a glyph that this machine's font lacks may be in the viewer's font
        yield


@contextmanager
def save_figure(path: Path, **options: Any) -> Iterator[Any]:
    """Yield a new figure in the style of a run's plots, and save it as SVG afterwards.

    Args:
        path: The SVG file to write.
        options: Options of matplotlib's `Figure`.
    """
    from matplotlib.figure import Figure

    with use_style(RUN_STYLE):
        figure = Figure(**options)
        yield figure
        replace_file(path, render_svg(figure))


def render_svg(figure: Any) -> bytes:
    """Return a matplotlib figure as SVG; equal figures give equal bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def render_pdf(figure: Any) -> bytes:
    """Return a matplotlib figure as PDF; equal figures give equal bytes."""
    buffer = io.BytesIO()
    with omit_layout_tables():
        figure.savefig(buffer, format="pdf", metadata={"CreationDate": None})
    return buffer.getvalue()


def format_percent_axis(axes: Any) -> None:
    """Label the y axis, whose values are shares, in per cent."""
    from matplotlib.ticker import PercentFormatter

    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))


def set_log_scale(axes: Any, axis: Literal["x", "y"], formatter: Callable[[float], str], base: int = 2) -> None:
    """Give an axis a logarithmic scale with plain text at its ticks; matplotlib's own text is a formula.

    Args:
        axes: Matplotlib axes.
        axis: The axis.
        formatter: Formats a tick's value.
        base: Base of the logarithm. Defaults to 2.
    """
    set_scale, scaled = (axes.set_xscale, axes.xaxis) if axis == "x" else (axes.set_yscale, axes.yaxis)
    set_scale("log", base=base)
    scaled.set_major_formatter(lambda value, _: formatter(value))

    def format_minor(value: float, _: object) -> str:
        low, high = scaled.get_view_interval()
        return formatter(value) if high < base * low else ""  # with powers in view they would overlap

    scaled.set_minor_formatter(format_minor)
