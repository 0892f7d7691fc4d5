"""Widths of text in LaTeX's Computer Modern, the widest of the usual faces, to lay out tables without running TeX."""

from __future__ import annotations

import re

SIZES = {"normalsize": 1.0, "small": 0.925, "footnotesize": 0.85, "scriptsize": 0.797}
"""Width of text by size, as a share of its width at 10 pt; small sizes have relatively wide characters."""
_WIDTHS = {
    2.78: "il.,:;'|![]",
    3.34: " -`jf",
    3.95: "rst()I",
    4.45: "cez",
    5.0: "0123456789ago/*–↑↓?_",
    5.3: "vxykqJ",
    5.56: "bdhknpuS",
    6.81: "LFEZPT&#$µ",
    7.23: "wCBT",
    7.86: "ADGHNOQRUVXYK+=@−±×÷<>~",
    8.34: "m%Δ",
    9.17: "M",
}
_WIDTH_BY_CHARACTER = {character: width for width, characters in _WIDTHS.items() for character in characters}
_WIDEST = 10.3  # W, and characters that are not listed
_BOLD = 1.16
_MARK, _SCRIPT_SPACE = 0.9, 0.5  # superscripts, in which an asterisk is wide
_BREAK = re.compile(r"(?<=[-+>/,_.:=&])(?=.)| +")
_MAX_PIECE = 80.0  # points at 10 pt


def measure_width(text: str, size: str, is_bold: bool = False) -> float:
    """Return the width of plain text in points.

    Args:
        text: The text, before escaping.
        size: A key of `SIZES`.
        is_bold: Whether it is set in bold. Defaults to False.
    """
    width = sum(_WIDTH_BY_CHARACTER.get(character, _WIDEST) for character in text)
    return width * SIZES[size] * (_BOLD if is_bold else 1.0)


def measure_mark(mark: str, size: str) -> float:
    """Return the width of a superscript in points."""
    return _MARK * 5.0 * len(mark) * SIZES[size] + (_SCRIPT_SPACE if mark else 0.0)


def split_pieces(text: str) -> list[str]:
    """Return the parts of a name between which a line may end; none is wider than 16 digits.

    Example:
        >>> split_pieces("distill+prune 0.9")
        ['distill+', 'prune', '0.', '9']
    """
    return [part for piece in _BREAK.split(text) if piece for part in _split_wide(piece)]


def _split_wide(text: str) -> list[str]:
    """Return a text in parts that are as long as they may be."""
    parts, start = [], 0
    for end in range(1, len(text) + 1):
        if end - start > 1 and measure_width(text[start:end], "normalsize") > _MAX_PIECE:
            parts.append(text[start : end - 1])
            start = end - 1
    return [*parts, text[start:]]
