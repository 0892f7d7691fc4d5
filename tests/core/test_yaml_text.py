"""YAML that expands to more than it seems."""

from __future__ import annotations

import pytest

from lightexp.core.yaml_text import check_yaml
from tests.special_files import deadline

LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS, "its aliases stand for more than 100,000 values"),
        ("a: &a [1, *a]", "an alias within what the alias stands for"),
        ("[" * 10_000, "it is nested without end"),
    ],
)
def test_check_yaml_refuses_what_expands_without_end(text: str, message: str) -> None:
    with deadline(), pytest.raises(ValueError, match=message):
        check_yaml(text)


def test_check_yaml_accepts_aliases() -> None:
    check_yaml("")
    check_yaml("base: &base {a: [1, 2]}\nrows: [*base, *base]\nmore: {<<: *base, b: 3}\n")
