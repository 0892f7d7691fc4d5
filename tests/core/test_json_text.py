from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightexp.core.json_text import encode_json, find_non_finite, parse_json


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


_json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=4), children, max_size=4),
    max_leaves=12,
)


@given(value=_json_values, ascii_only=st.booleans(), changes=st.lists(st.tuples(st.integers(0), st.integers(0, 255))))
def test_parsed_json_is_what_json_loads_returns(value: Any, ascii_only: bool, changes: list[tuple[int, int]]) -> None:
    content = bytearray(json.dumps(value, ensure_ascii=ascii_only).encode(errors="surrogatepass"))
    for place, byte in changes[:3]:
        content[place % len(content)] = byte
    _check_parsed(bytes(content))


@pytest.mark.parametrize(
    "content",
    [
        *(b"NaN", b"-Infinity", b"1e400", b"-0", b"-0.0", b"01", b"1.", b"1" * 5000, b"123456789012345678901234567890"),
        *(b'{"a": 1, "a": 2}', b'"\\ud800"', b'"\\ud83d\\ude00"', b'"\xed\xa0\x80"', b'"\xff"', b'"\t"', b'"\x7f"'),
        *(b"", b" ", b"1 2", b" 1 \n", b"\xef\xbb\xbf1", b"{", b"[" * 400 + b"]" * 400, b"[1, 2,]", b"'a'"),
    ],
)
def test_odd_json_is_parsed_or_refused_as_by_json_loads(content: bytes) -> None:
    _check_parsed(content)


def _check_parsed(content: bytes) -> None:
    try:
        expected = json.loads(content.decode())
    except ValueError as error:
        with pytest.raises(type(error)):
            parse_json(content)
    else:
        assert repr(parse_json(content)) == repr(expected)  # also NaN, -0.0 and the order of names
