"""Formatting of bytes, durations, ages and names, and escapes."""

from __future__ import annotations

import pytest

from lightexp.core import formatting


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (12_345_678, "12.3 MB"),
        (2e9, "2.0 GB"),
        (1e15, "1,000.0 TB"),
    ],
)
def test_format_bytes_uses_decimal_units(size: float, text: str) -> None:
    assert formatting.format_bytes(size) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0.5, "0.5 B"),
        (512, "512 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (2**26, "64 MiB"),
        (2**30, "1 GiB"),
        (2**42, "4096 GiB"),
    ],
)
def test_format_binary_bytes_uses_powers_of_1024(size: float, text: str) -> None:
    assert formatting.format_binary_bytes(size) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (5400, "1 h 30 min")])
def test_format_duration(seconds: float, text: str) -> None:
    assert formatting.format_duration(seconds) == text


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3599, "59:59"), (36_000, "10:00:00")])
def test_format_clock(seconds: float, text: str) -> None:
    assert formatting.format_clock(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(-3, "0 s"), (59.9, "59 s"), (60, "1 m"), (7199, "1 h"), (864_000, "10 d")]
)
def test_format_age_rounds_down(seconds: float, text: str) -> None:
    assert formatting.format_age(seconds) == text


def test_shorten_name_is_printable_and_fits() -> None:
    assert formatting.shorten_name("tab\there") == "tab?here"
    assert formatting.shorten_name("x" * 34) == "x" * 34
    assert formatting.shorten_name("x" * 35) == "x" * 33 + "…"
    assert formatting.shorten_name("abcdef", length=3) == "ab…"


def test_escape_markdown_keeps_text_in_one_cell() -> None:
    assert formatting.escape_markdown("a|b_<c>\n[d] $x$ `e` *f*\\") == r"a\|b\_\<c\> \[d\] \$x\$ \`e\` \*f\*" + "\\\\"


def test_escape_latex_is_ascii() -> None:
    escaped = formatting.escape_latex('50% & $x_1$ {a} ~^#\\ "q" µ Ж\n2')
    assert escaped.isascii()
    assert escaped.startswith(r"50\% \& \$x\_1\$ \{a\} \textasciitilde{}\textasciicircum{}\#\textbackslash{}")
    assert escaped.endswith(r"''q'' $\mu$ ? 2")
    assert formatting.escape_latex("Mu\u0308ller, François, Łódź") == r"M\"{u}ller, Fran\c{c}ois, \L{}\'{o}d\'{z}"


def test_escape_html_covers_attributes() -> None:
    assert formatting.escape_html('<a href="x">\'&') == "&lt;a href=&quot;x&quot;&gt;&#x27;&amp;"
