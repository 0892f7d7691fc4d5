"""Keys of settings: what changes a key, and what leaves it unchanged."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field, make_dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightexp.core import fingerprint
from lightexp.core.config import Fraction, NonNegative, construct
from lightexp.core.fingerprint import canonicalize, compute_key, hash_file, hash_source, read_library_versions
from lightexp.models.article_mlp import ArticleMlp
from lightexp.models.file_stages import ModelFile
from lightexp.models.lenet5 import LeNet5
from lightexp.models.lenet_300_100 import LeNet300100
from lightexp.objectives.cross_entropy import CrossEntropy
from lightexp.stages.prune import Prune


@dataclass(frozen=True)
class MixedSettings:
    """Settings of several types."""

    version: ClassVar[int] = 1
    number: NonNegative = 0.0
    share: Fraction = 0.0
    named: dict[str, Any] = field(default_factory=dict)
    unkeyed: str = field(default="", metadata={"keyed": False})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


def reverse_mappings(value: Any) -> Any:
    """Return the value with the order of every mapping reversed."""
    if isinstance(value, dict):
        return {k: reverse_mappings(v) for k, v in reversed(value.items())}
    return [reverse_mappings(v) for v in value] if isinstance(value, list) else value


@given(json_values)
def test_compute_key_ignores_the_order_of_a_mapping(value: Any) -> None:
    assert compute_key(value) == compute_key(reverse_mappings(value))
    assert compute_key(MixedSettings(named={"a": value, "b": 1})) == compute_key(
        MixedSettings(named={"b": 1, "a": reverse_mappings(value)})
    )


@given(json_values, json_values)
def test_compute_key_differs_between_values(one: Any, other: Any) -> None:
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (compute_key(one) == compute_key(other)) == same


@given(json_values)
def test_canonicalize_is_idempotent_json(value: Any) -> None:
    once = canonicalize(MixedSettings(named={"v": value}))
    assert canonicalize(once) == once
    assert json.loads(json.dumps(once, allow_nan=False)) == once


@given(st.integers(0, 2**53))
def test_compute_key_of_integers_in_float_fields(number: int) -> None:
    assert compute_key(construct(MixedSettings, {"number": number}, "s")) == compute_key(
        construct(MixedSettings, {"number": float(number)}, "s")
    )
    assert (
        compute_key(construct(MixedSettings, {"share": 0}, "s"))
        == compute_key(construct(MixedSettings, {"share": 0.0}, "s"))
        == compute_key(MixedSettings())
    )


@given(st.floats(0, 1e6), st.floats(0, 1), st.text(max_size=3))
def test_compute_key_differs_between_settings(number: float, share: float, word: str) -> None:
    keys = {
        compute_key(s)
        for s in (
            MixedSettings(),
            MixedSettings(number=number),
            MixedSettings(number=number, share=share),
            MixedSettings(named={"n": word}),
        )
    }
    settings = {(0.0, 0.0, None), (number + 0.0, 0.0, None), (number + 0.0, share + 0.0, None), (0.0, 0.0, word)}
    assert len(keys) == len(settings)


def test_compute_key_distinguishes_types() -> None:
    assert compute_key((1, 2)) == compute_key([1, 2]) != compute_key([2, 1])
    assert len({compute_key(v) for v in (0, 0.0, False, None, "0", [], {})}) == 7
    assert compute_key(LeNet5()) != compute_key(LeNet300100())  # the key includes the class
    assert canonicalize(LeNet5(0.5))["type"] == "lightexp.models.lenet5.LeNet5"


def test_compute_key_includes_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    before = compute_key(LeNet5())
    monkeypatch.setattr(LeNet5, "version", 2)
    assert compute_key(LeNet5()) != before


@dataclass(frozen=True)
class Inner:
    """Settings inside settings."""

    version: ClassVar[int] = 1
    depth: int = 1


@dataclass(frozen=True)
class Later:
    """Settings to which the field `added` was added."""

    version: ClassVar[int] = 1
    number: NonNegative = 0.0
    named: dict[str, Any] = field(default_factory=dict)
    added: Any = 1.0


def canonicalize_settings(value: Any) -> Any:
    """Return the canonical form of the settings alone."""
    return canonicalize(value)["settings"]


def test_compute_key_ignores_a_new_field_with_its_default() -> None:
    @dataclass(frozen=True)
    class Before:
        version: ClassVar[int] = 1
        number: NonNegative = 0.0
        named: dict[str, Any] = field(default_factory=dict)

    Before.__qualname__ = Later.__qualname__
    for settings in ({}, {"number": 0.5}, {"named": {"a": 1}}):
        assert compute_key(Before(**settings)) == compute_key(Later(**settings))
    assert compute_key(Later(added=2.0)) != compute_key(Later())


def test_canonicalize_leaves_out_only_defaults() -> None:
    assert canonicalize_settings(MixedSettings()) == {}
    assert canonicalize_settings(MixedSettings(number=0.5, share=0.0)) == {"number": 0.5}
    assert canonicalize_settings(MixedSettings(named={"a": 0})) == {"named": {"a": 0}}
    assert canonicalize_settings(Later(added=1)) == {}  # the same number
    assert canonicalize_settings(Later(added=True)) == {"added": True}  # not a number
    assert canonicalize_settings(Later(added="1.0")) == {"added": "1.0"}
    assert canonicalize_settings(Later(added=[1.0])) == {"added": [1.0]}
    assert canonicalize(MixedSettings(), with_defaults=True)["settings"] == {"number": 0.0, "share": 0.0, "named": {}}


@pytest.mark.parametrize(
    ("default", "same", "different"),
    [
        (0.5, 0.5, 0),
        ([1, 2.0], [1.0, 2], [2, 1]),
        (None, None, 0),
        ({"a": 1}, {"a": 1.0}, {"a": True}),
        (0, 0.0, False),
    ],
)
def test_canonicalize_compares_defaults_by_value(default: Any, same: Any, different: Any) -> None:
    cls = make_dataclass("Made", [("value", Any, field(default_factory=lambda: default))])
    assert canonicalize_settings(cls(same)) == {}
    assert canonicalize_settings(cls(different)) == {"value": different}


def test_compute_key_includes_versions_of_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    outer = make_dataclass("Outer", [("inner", Inner, field(default_factory=Inner))])
    before = compute_key(outer())
    assert canonicalize_settings(outer()) == {}
    monkeypatch.setattr(Inner, "version", 2)
    assert compute_key(outer()) != before


def test_compute_key_of_a_plugin_with_a_new_field(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key stays if a plugin with a version gets a field with a default, so old store entries stay valid."""
    before = "from dataclasses import dataclass\n@dataclass(frozen=True)\nclass Own:\n    version = 3\n    a: int = 1\n"
    monkeypatch.syspath_prepend(tmp_path)
    keys = []
    for text in (before, before + "    b: float = 0.5\n", before.replace("3", "4")):
        (tmp_path / "own_versioned.py").write_text(text)
        sys.modules.pop("own_versioned", None)
        importlib.invalidate_caches()
        hash_source.cache_clear()
        keys.append(compute_key(importlib.import_module("own_versioned").Own(a=2)))
    assert keys[0] == keys[1] != keys[2]
    del sys.modules["own_versioned"]
    hash_source.cache_clear()


def test_compute_key_includes_nested_settings() -> None:
    stage = Prune(objective=CrossEntropy(), layers={"a": 0.5, "b": 0.25})
    assert compute_key(stage) == compute_key(Prune(objective=CrossEntropy(), layers={"b": 0.25, "a": 0.5}))
    assert compute_key(stage) != compute_key(replace(stage, layers={"a": 0.25, "b": 0.5}))
    assert compute_key(ArticleMlp(dropout=0.2)) == compute_key(ArticleMlp())


@given(st.text(max_size=5))
def test_compute_key_leaves_out_unkeyed_fields(text: str) -> None:
    assert compute_key(MixedSettings(unkeyed=text)) == compute_key(MixedSettings())
    assert compute_key(ModelFile(path=text, digest="d")) == compute_key(ModelFile(path="x", digest="d"))
    assert compute_key(ModelFile(path="x", digest=f"d{text}!")) != compute_key(ModelFile(path="x", digest="d"))


@pytest.mark.parametrize("value", [np.zeros(2), {"a": object()}, [b"bytes"], {1, 2}, LeNet5])
def test_compute_key_refuses_other_types(value: Any) -> None:
    with pytest.raises(TypeError, match="has no canonical form"):
        compute_key(value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [-float("inf")]])
def test_compute_key_refuses_infinite_numbers(value: Any) -> None:
    with pytest.raises(ValueError, match="must be finite"):
        compute_key(value)


def test_compute_key_includes_a_plugins_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "from dataclasses import dataclass\n@dataclass(frozen=True)\nclass Own:\n    a: int = 1\n"
    file = tmp_path / "own_stage.py"
    monkeypatch.syspath_prepend(tmp_path)
    keys = []
    for text in (source, source + "# a comment\n", source):
        file.write_text(text)
        sys.modules.pop("own_stage", None)
        hash_source.cache_clear()
        settings = importlib.import_module("own_stage").Own()
        assert canonicalize(settings)["source"] == compute_key([hash_file(file)])
        keys.append(compute_key(settings))
    assert keys[0] == keys[2] != keys[1]
    del sys.modules["own_stage"]
    hash_source.cache_clear()
    assert "source" not in canonicalize(LeNet5())  # lightexp's own classes have versions instead


def test_compute_key_is_the_same_in_another_process() -> None:
    code = "from lightexp.core.fingerprint import compute_key; from lightexp.models.lenet5 import LeNet5; "
    code += "print(compute_key({'m': LeNet5(0.5), 'b': [1, 2.5], 'a': {'z': None, 'y': True}}))"
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == compute_key({"a": {"y": True, "z": None}, "b": [1, 2.5], "m": LeNet5(0.5)})


def test_digests_and_versions(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    assert hash_file(tmp_path / "f") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert "tensorflow" in read_library_versions()
    assert (
        fingerprint.compute_key(None) == "74234e98afe7498fb5daf1f36ac2d78acc339464f950703b8c019892f982b90b"
    )  # SHA-256 of null
