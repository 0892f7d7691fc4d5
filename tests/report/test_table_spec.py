"""Columns as an ablation's file describes them."""

from __future__ import annotations

from typing import Any

import pytest

from lightexp.core.errors import BadInput
from lightexp.report.table_spec import Presentation, parse_column


def test_parse_column_knows_usual_metrics() -> None:
    column = parse_column("accuracy/test", "columns[0]")
    assert (column.heading, column.direction, column.format(0.5)) == ("Accuracy test", "max", "50.00%")


def test_parse_column_accepts_other_metrics() -> None:
    column = parse_column("custom/metric", "columns[0]")
    assert (column.heading, column.direction) == ("custom/metric", None)
    assert column.format(1234.5678) == "1,235"


@pytest.mark.parametrize(
    ("format_spec", "text"), [(".1f", "12.3"), (",.0f", "12"), (".2e", "1.23e+01"), (".1fx", "12.3x")]
)
def test_parse_column_overrides_the_format(format_spec: str, text: str) -> None:
    node = {"measurement": "size/ratio", "heading": "Times", "format": format_spec, "direction": "min"}
    column = parse_column(node, "columns[0]")
    assert (column.heading, column.direction, column.format(12.34)) == ("Times", "min", text)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"heading": "x"}, r"columns\[1\] must name a measurement, such as accuracy/test\. Received: {'heading': 'x'}"),
        ({"measurement": "x", "format": "wide"}, r"columns\[1\].*format must be such as \.2%.*Received: 'wide'"),
        ({"measurement": "x", "colour": "red"}, r"columns\[1\].*colour"),
    ],
)
def test_parse_column_refuses_in_one_line(node: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message) as error:
        parse_column(node, "columns[1]")
    assert "\n" not in str(error.value)


def test_labels_name_every_row_differently() -> None:
    with pytest.raises(ValueError, match="Received for more than one row: 'ours'"):
        Presentation(labels={"a": "ours", "b": "ours"})
    with pytest.raises(ValueError, match="at least 1 character"):
        Presentation(labels={"a": ""})


def test_columns_differ_in_metric_or_heading() -> None:
    shown = Presentation(columns=["size/ratio", {"measurement": "size/ratio", "heading": "Times", "format": ".1fx"}])
    assert [column.heading for column in shown.fill_spec(title="x").columns] == ["Ratio", "Times"]
    with pytest.raises(BadInput, match=r"columns must differ .* more than once: size/ratio\. Leave one out"):
        Presentation(columns=["size/ratio", "accuracy/test", "size/ratio"]).fill_spec(title="x")
