"""Format bytes, durations and names for people, and escape text for Markdown, LaTeX, HTML, CSV and the terminal.

Names and messages come from files and servers of others. Whatever is printed or written goes through a function of this
module, which leaves no control character that a terminal would obey and no formula that a spreadsheet would compute.
"""

from __future__ import annotations

import html
import re
import unicodedata
from typing import Any

_DECIMAL_UNITS = ("kB", "MB", "GB", "TB")
_BINARY_UNITS = ("B", "KiB", "MiB", "GiB")
_AGE_UNITS = (("d", 86_400), ("h", 3_600), ("m", 60))
# C0 and C1 controls but tab and line feed, and the characters that reorder text:
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_SURROGATES = re.compile(r"[\ud800-\udfff]")  # bytes of a file name that are no text, which UTF-8 cannot hold
_FORMULA_STARTS = ("=", "+", "-", "@")
_MARKDOWN_SPECIAL = "\\|<>*_`$[]"
_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "±": r"$\pm$", "×": r"$\times$", "÷": r"$\div$", "µ": r"$\mu$", "†": r"$^{\dagger}$", "–": "--", "Δ": r"$\Delta$",
    "\"": "''", "|": r"\textbar{}", "≥": r"$\geq$", "≤": r"$\leq$", "’": "'", "…": r"\ldots{}",
    "↑": r"$\uparrow$", "↓": r"$\downarrow$", "‡": r"$^{\ddagger}$", "→": r"$\rightarrow$", "½": r"$\frac12$",
    "²": "$^2$", "³": "$^3$", "≈": r"$\approx$", "−": "$-$", "—": "---", "‘": "`", "“": "``", "”": "''", "ß": r"\ss{}",
    "æ": r"\ae{}", "Æ": r"\AE{}", "œ": r"\oe{}", "ø": r"\o{}", "Ø": r"\O{}", "ł": r"\l{}", "Ł": r"\L{}", "ı": r"\i{}",
    "α": r"$\alpha$", "β": r"$\beta$", "γ": r"$\gamma$", "δ": r"$\delta$", "ε": r"$\epsilon$", "η": r"$\eta$",
    "θ": r"$\theta$", "λ": r"$\lambda$", "μ": r"$\mu$", "π": r"$\pi$", "ρ": r"$\rho$", "σ": r"$\sigma$",
    "τ": r"$\tau$", "φ": r"$\phi$", "ω": r"$\omega$", "Σ": r"$\Sigma$", "Ω": r"$\Omega$",
}  # fmt: skip
_LATEX_ACCENTS = {
    "\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0304": "=", "\u0306": "u", "\u0307": ".",
    "\u0308": '"', "\u030a": "r", "\u030b": "H", "\u030c": "v", "\u0327": "c",
}  # fmt: skip
"""Commands of the accents that every TeX font has, by their combining characters."""


def format_bytes(size: float) -> str:
    """Return a size in decimal units, such as `340 bytes` or `12.3 MB`.

    Args:
        size: Number of bytes.

    Example:
        >>> format_bytes(12_345_678)
        '12.3 MB'
    """
    if size < 1000:
        return "1 byte" if size == 1 else f"{size:,.0f} bytes"
    power = 1
    while size >= 1000 ** (power + 1) and power < len(_DECIMAL_UNITS):
        power += 1
    return f"{size / 1000**power:,.1f} {_DECIMAL_UNITS[power - 1]}"


def format_count(count: int, noun: str) -> str:
    """Return a number of things.

    Args:
        count: How many.
        noun: What they are, in the singular; its plural ends in `s`.

    Example:
        >>> format_count(1, "worker"), format_count(2000, "thread")
        ('1 worker', '2,000 threads')
    """
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def format_binary_bytes(size: float) -> str:
    """Return a size in powers of 1024, as plots label their log2 axes.

    Args:
        size: Number of bytes.

    Example:
        >>> format_binary_bytes(65_536)
        '64 KiB'
    """
    power = 0
    while size >= 1024 ** (power + 1) and power < len(_BINARY_UNITS) - 1:
        power += 1
    size /= 1024**power
    number = f"{size:.0f}" if size >= 1000 else f"{size:.3g}"  # .3g would write 1e+03
    return f"{number} {_BINARY_UNITS[power]}"


def format_duration(seconds: float) -> str:
    """Return a duration in words, to the second below 90 seconds and to the minute above.

    Example:
        >>> format_duration(40), format_duration(3900), format_duration(7500)
        ('40 s', '65 min', '2 h 5 min')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def format_clock(seconds: float) -> str:
    """Return a duration as a clock shows it.

    Example:
        >>> format_clock(75), format_clock(3675)
        ('1:15', '1:01:15')
    """
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"


def format_age(seconds: float) -> str:
    """Return an age in the largest unit that it fills; a negative age counts as zero.

    Example:
        >>> format_age(59), format_age(7300), format_age(200_000)
        ('59 s', '2 h', '2 d')
    """
    for unit, length in _AGE_UNITS:
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{max(0.0, seconds) // 1:.0f} s"


def strip_controls(text: str) -> str:
    r"""Return the text without control characters other than tabs and line feeds, and with `?` for what is no text.

    Example:
        >>> strip_controls("a\x1b[2Jb")
        'a[2Jb'
    """
    if text.isprintable():  # most texts are, which is known in a tenth of the time
        return text
    return _SURROGATES.sub("?", _CONTROLS.sub("", text))


def replace_unprintable(text: str) -> str:
    """Return the text with a question mark for each character that cannot be printed."""
    return "".join(character if character.isprintable() else "?" for character in text)


def shorten_name(name: str, length: int = 34) -> str:
    """Return a printable name of at most `length` characters; a longer one ends in an ellipsis."""
    printable = replace_unprintable(name)
    return printable if len(printable) <= length else printable[: length - 1] + "…"


def escape_markdown(text: str) -> str:
    r"""Return text on one line that Markdown shows as it is, also within a table.

    Example:
        >>> print(escape_markdown("a|b_c"))
        a\|b\_c
    """
    for special in _MARKDOWN_SPECIAL:
        text = text.replace(special, f"\\{special}")
    return " ".join(strip_controls(text).split())


def escape_latex(text: str) -> str:
    r"""Return text on one line that any LaTeX shows as it is; characters that its fonts lack become `?`.

    Example:
        >>> print(escape_latex("50% ± 1, Müller"))
        50\% $\pm$ 1, M\"{u}ller
    """
    return "".join(map(_escape_latex_character, unicodedata.normalize("NFC", " ".join(text.split()))))


def _escape_latex_character(character: str) -> str:
    if character in _LATEX or (character.isascii() and character.isprintable()):
        return _LATEX.get(character, character)
    decomposed = unicodedata.normalize("NFD", character)
    base, accent = decomposed[:1], decomposed[1:]
    return rf"\{_LATEX_ACCENTS[accent]}{{{base}}}" if base.isascii() and accent in _LATEX_ACCENTS else "?"


def escape_html(text: str) -> str:
    """Return text that HTML shows as it is, also within a quoted attribute.

    Example:
        >>> escape_html("<b>")
        '&lt;b&gt;'
    """
    return html.escape(strip_controls(text))


def escape_markup(text: str) -> str:
    r"""Return text that a rich console shows as it is.

    Example:
        >>> print(escape_markup("[red]"))
        \[red]
    """
    from rich.markup import escape

    return escape(strip_controls(text))


def escape_csv(value: object) -> object:
    """Return a cell of a CSV file; a spreadsheet shows a text that begins like a formula instead of computing it.

    Example:
        >>> escape_csv("=1+1"), escape_csv("-1.5"), escape_csv(None)
        ("'=1+1", '-1.5', '')
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        return value
    text = strip_controls(value)
    is_formula = text.startswith("\t") or text.lstrip().startswith(_FORMULA_STARTS)
    return f"'{text}" if is_formula and not is_number(text) else text


def unescape_csv(value: Any) -> Any:
    """Return the value that `escape_csv` has written.

    Example:
        >>> unescape_csv("'=1+1"), unescape_csv(2.5)
        ('=1+1', 2.5)
    """
    return value[1:] if isinstance(value, str) and value.startswith("'") and escape_csv(value[1:]) == value else value


def is_number(text: str) -> bool:
    """Return whether a text is a number as Python reads it, `nan` and `inf` included."""
    try:
        float(text)
    except ValueError:
        return False
    return True
