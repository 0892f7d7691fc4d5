"""Every setting of a shipped choice has a text, and its annotation is described in words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from lightexp.core.config import Bytes, Count, Fraction, Share, locate
from lightexp.runner.config_dir import find_config_dir
from lightexp.runner.setting_docs import FieldType, describe_type, read_attributes, read_docstring, read_field_types
from lightexp.stages.prune import Prune
from lightexp.stages.rate import Rate


def list_targets() -> Iterator[str]:
    """Yield the classes that shipped configs name, except for Hydra's own plugins."""
    for path in sorted(find_config_dir().rglob("*.yaml")):
        yield from re.findall(r"_target_: (lightexp\.[\w.]+)", path.read_text())


@pytest.mark.parametrize("target", sorted(set(list_targets())))
def test_every_setting_has_a_text(target: str) -> None:
    cls = locate(target, "test")
    texts = read_attributes(cls)
    assert [name for name in read_field_types(cls) if not texts.get(name)] == []
    assert read_docstring(cls)


@pytest.mark.parametrize(
    ("hint", "described"),
    [
        (Fraction, FieldType("number", "≥ 0, ≤ 1")),
        (Share | None, FieldType("number or null", "> 0, ≤ 1")),
        (Bytes, FieldType("whole number", "≥ 1")),
        (list[Count] | None, FieldType("list of whole numbers or null", "≥ 1")),
        (dict[str, Literal[2, 4]], FieldType("mapping to 2, 4")),
        (Count | list[Count], FieldType("whole number or list of whole numbers", "≥ 1")),
        (Literal["a", None], FieldType("a, null")),
        (bool, FieldType("true or false")),
        (Annotated[float, Field(lt=2, allow_inf_nan=False)], FieldType("number", "< 2")),
        (Prune, FieldType("Prune")),
        (Path, FieldType("Path")),
    ],
)
def test_describe_type_uses_words(hint: Any, described: FieldType) -> None:
    assert describe_type(hint) == described


def test_read_attributes_includes_bases_and_drops_defaults() -> None:
    texts = read_attributes(Rate)
    assert texts["epochs"] == "Passes over the train split."  # of a base
    assert texts["rate"].endswith("quantisation-aware training.")  # whose default would have had a dot in it
    assert read_attributes(Prune)["frequency"].startswith("Steps between updates of the masks. Defaults to null: 100,")
    assert "Attributes" not in read_docstring(Prune)
