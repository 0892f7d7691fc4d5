"""Overrides as the Python API takes them."""

from __future__ import annotations

from typing import Any

import pytest

from lightexp.api.overrides import split_overrides
from lightexp.core.errors import BadInput


@pytest.mark.parametrize(
    ("overrides", "split"),
    [
        (None, []),
        ("", []),
        ("a=1  b=2", ["a=1", "b=2"]),
        ("'pipeline.order=[train, quantize]' a=1", ["pipeline.order=[train, quantize]", "a=1"]),
        (["a=1 2", "b=3"], ["a=1 2", "b=3"]),
        (("a=1",), ["a=1"]),
    ],
)
def test_split_overrides_returns_a_list(overrides: Any, split: list[str]) -> None:
    assert split_overrides(overrides) == split


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("a='1", "cannot be split: No closing quotation. Received: a='1. Pass a list."),
        ([1], "overrides are strings such as 'seed=1'. Received: 1."),
        ("a=1 --plan", "--plan is a flag of the command line. Pass settings only, such as 'seed=1'."),
    ],
)
def test_split_overrides_refuses_other_values(overrides: Any, message: str) -> None:
    with pytest.raises(BadInput) as raised:
        split_overrides(overrides)
    assert message in str(raised.value)
