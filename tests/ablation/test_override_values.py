"""Values in overrides: Hydra reads what was written."""

from __future__ import annotations

from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from lightexp.ablation.override_values import format_override_value

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(-1e6, 1e6)
SCALARS |= st.text("ab '\\,:=[]{}\"#", max_size=8) | st.sampled_from(["null", "True", "inf", "1e3", "a.b/c"])


@given(st.lists(st.recursive(SCALARS, lambda value: st.lists(value, max_size=3), max_leaves=4), max_size=3))
def test_format_override_value_is_read_by_hydra(value: list[object]) -> None:
    assert OverridesParser.create().parse_override(f"a={format_override_value(value)}").value() == value
