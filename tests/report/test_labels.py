"""Short names of rows."""

from __future__ import annotations

from lightexp.report.labels import label_rows


def test_label_rows_cuts_long_names_that_stay_different() -> None:
    long = {end: "a" * 300 + end for end in "xy"}
    labels = label_rows(["b" * 300, "c" * 200, *long.values()], {long["y"]: "y"})
    assert labels["b" * 300] == "b" * 199 + "…"
    assert labels["c" * 200] == "c" * 200
    assert labels[long["x"]] == "a" * 199 + "…"
    assert labels[long["y"]] == "y"
    assert label_rows(list(long.values()), {}) == {name: name for name in long.values()}
