from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import pytest

from lightexp.core.json_text import encode_json, find_non_finite


@dataclass
class Point:
    value: float


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_not_finite_become_null(value: float) -> None:
    text = encode_json({"a": [value, 1.5], "point": Point(value), "words": "NaN Infinity"}, default=asdict, indent=1)
    parsed = json.loads(text, parse_constant=pytest.fail)
    assert parsed == {"a": [None, 1.5], "point": {"value": None}, "words": "NaN Infinity"}
    assert text.startswith('{\n "a"')


def test_finite_values_are_written_as_json_does() -> None:
    value = {"b": [1, 2.5, None, True], "a": "ü"}
    for options in ({}, {"sort_keys": True}, {"ensure_ascii": False, "separators": (",", ":")}):
        assert encode_json(value, **options) == json.dumps(value, **options)


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"history": {"loss": [1.0, float("inf")]}}, "history.loss.1"),
        ({"a": (0.0, {"b": float("nan")})}, "a.1.b"),
        ({"a": [1, "nan", None, True], "b": {}}, None),
    ],
)
def test_place_of_a_number_that_is_not_finite(value: dict[str, Any], place: str | None) -> None:
    assert find_non_finite(value) == place
