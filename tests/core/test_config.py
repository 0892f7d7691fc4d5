"""Construction and validation of settings dataclasses from configs and from Python."""

from __future__ import annotations

import math
import pickle
import sys
from collections.abc import Callable
from dataclasses import FrozenInstanceError, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightexp.core.config import (
    Count,
    Fraction,
    Index,
    NonNegative,
    Positive,
    Sparsity,
    build,
    construct,
    locate,
    settings_dataclass,
)
from lightexp.core.errors import BadInput, suggest_nearest
from lightexp.core.protocols import Model, Stage, TrainingObjective
from lightexp.models.lenet5 import LeNet5
from lightexp.models.small_cnn import SmallCnn
from lightexp.objectives.cross_entropy import CrossEntropy
from lightexp.stages.distill import Distill
from lightexp.stages.prune import Prune
from lightexp.stages.quantize import Quantize

PRUNE = {
    "_target_": "lightexp.stages.prune.Prune",
    "objective": {"_target_": f"{CrossEntropy.__module__}.CrossEntropy"},
}
DISTILL = {
    "_target_": "lightexp.stages.distill.Distill",
    "objective": {"_target_": "lightexp.objectives.distill.Distillation"},
}


@dataclass(frozen=True)
class AllKinds:
    """One field of every kind."""

    share: Fraction = 0.0
    sparsity: Sparsity = 0.0
    positive: Positive = 1.0
    at_least_zero: NonNegative = 0.0
    count: Count = 1
    index: Index = 0
    maybe: Count | None = None
    word: Literal["one", "two"] = "one"
    text: str = ""
    flag: bool = False
    several: list[str] = field(default_factory=list)
    named: dict[str, Sparsity] = field(default_factory=dict)


def get_refusal(values: dict[str, Any]) -> str:
    """Return the message with which `AllKinds` refuses values, which is one line."""
    with pytest.raises(BadInput) as caught:
        construct(AllKinds, values, "here.every")
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "path"),
    [
        ("share", "0.5", "share"),
        ("share", True, "share"),
        ("share", 1.1, "share"),
        ("share", math.nan, "share"),
        ("share", None, "share"),
        ("sparsity", 1.0, "sparsity"),
        ("sparsity", math.nan, "sparsity"),
        ("positive", 0, "positive"),
        ("positive", math.inf, "positive"),
        ("positive", math.nan, "positive"),
        ("at_least_zero", -1e-9, "at_least_zero"),
        ("at_least_zero", math.inf, "at_least_zero"),
        ("count", 0, "count"),
        ("count", 1.0, "count"),
        ("count", True, "count"),
        ("count", "3", "count"),
        ("index", -1, "index"),
        ("maybe", 0, "maybe"),
        ("maybe", "none", "maybe"),
        ("word", "three", "word"),
        ("word", 1, "word"),
        ("text", 5, "text"),
        ("flag", 1, "flag"),
        ("flag", "yes", "flag"),
        ("several", "a", "several"),
        ("several", ["a", 2], "several.1"),
        ("named", [], "named"),
        ("named", {"conv1": 2.0}, "named.conv1"),
        ("named", {"conv1": "all\nof it"}, "named.conv1"),
    ],
)
def test_construct_refuses_bad_values(name: str, value: Any, path: str) -> None:
    message = get_refusal({name: value})
    assert message.startswith(f"here.every.{path}: ")
    if path == "several.1":
        received = value[1]
    elif isinstance(value, dict):
        received = value.get("conv1")
    else:
        received = value
    assert f". Received: {received!r}." in message


def test_construct_accepts_good_values() -> None:
    values = {
        "share": 1,
        "sparsity": 0.5,
        "positive": 1e-300,
        "at_least_zero": 0,
        "count": 3,
        "index": 0,
        "maybe": None,
        "word": "two",
        "text": "",
        "flag": True,
        "several": ["a", "b"],
        "named": {"conv1": 0},
    }
    settings = construct(AllKinds, values, "here")
    assert {name: getattr(settings, name) for name in values} == values
    assert type(settings.share) is type(settings.named["conv1"]) is float


def test_construct_suggests_the_nearest_setting() -> None:
    assert get_refusal({"sparsty": 0.5}) == "here.every.sparsty is not a setting of AllKinds: did you mean 'sparsity'?"
    assert "choose from: at_least_zero, count," in get_refusal({"xyz": 1})
    assert suggest_nearest("x", []) == "nothing is known by that name."


def test_build_prefixes_errors_of_the_class() -> None:
    with pytest.raises(BadInput, match=r"^stages\.p: initial_sparsity must not be above sparsity\. Received: 0\.9 and"):
        build({**PRUNE, "initial_sparsity": 0.9}, Stage, "stages.p")  # type: ignore[type-abstract]


def test_build_requires_settings_without_default() -> None:
    with pytest.raises(BadInput, match=r"^stages\.p: Prune needs more than it was given\. Not given: .*'objective'"):
        build({"_target_": PRUNE["_target_"]}, Stage, "stages.p")  # type: ignore[type-abstract]


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (None, "m must be a mapping with _target_. Received: None"),
        ("lenet5", "m must be a mapping with _target_. Received: 'lenet5'"),
        ({"width": 1.0}, "m must be a mapping with _target_."),
        ({"_target_": "os.system"}, "m._target_ names 'os.system', but only lightexp's own classes may be named."),
        ({"_target_": "lightexpx.A"}, "m._target_ names 'lightexpx.A', but only"),
        ({"_target_": "lightexp.models.lenet6.LeNet6"}, "which cannot be imported (ModuleNotFoundError: No module"),
        ({"_target_": "lightexp.models.lenet5.LeNet6"}, "which cannot be imported ("),
        ({"_target_": "lightexp"}, "which cannot be imported ("),
        ({"_target_": "lightexp.cli.__main__.Model"}, "m._target_ names 'lightexp.cli.__main__.Model', but only"),
        ({"_target_": 5}, "m._target_ names '5', but only"),
        ({"_target_": "lightexp.core.errors.suggest_nearest"}, "which is not a dataclass."),
        ({"_target_": "lightexp.core.errors.BadInput"}, "which is not a dataclass."),
        ({"_target_": "lightexp.core.data.Data"}, "m._target_ must be a Model. Received: lightexp.core.data.Data."),
    ],
)
def test_build_refuses_targets(node: Any, message: str) -> None:
    with pytest.raises(BadInput) as caught:
        build(node, Model, "m")  # type: ignore[type-abstract]
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_build_builds_nested_nodes() -> None:
    stage = build({**DISTILL, "student": {"_target_": "lightexp.models.lenet5.LeNet5", "width": 2}}, Stage, "s")  # type: ignore[type-abstract]
    assert isinstance(stage, Distill)
    assert stage.student == LeNet5(2.0)
    with pytest.raises(BadInput, match=r"^s\.objective\.temperature: .* greater than 0\. Received: 0\.$"):
        build({**DISTILL, "objective": {**DISTILL["objective"], "temperature": 0}}, Stage, "s")  # type: ignore
    with pytest.raises(BadInput, match=r"^s\.student\._target_ must be a Model\. Received: lightexp\..*CrossEntropy\."):
        build({**DISTILL, "student": PRUNE["objective"]}, Stage, "s")  # type: ignore[type-abstract]


def test_build_constructs_no_class_that_a_field_has_no_use_for() -> None:
    for name in ("epochs", "layers"):
        with pytest.raises(BadInput, match=rf"^s\.{name} takes no _target_: Prune has no class there\.$"):
            build({**PRUNE, name: {"_target_": "lightexp.core.record.Record"}}, Stage, "s")  # type: ignore
    with pytest.raises(BadInput, match=r"^s\._args_ is not a setting of Prune"):
        build({**PRUNE, "_args_": [1]}, Stage, "s")  # type: ignore[type-abstract]


def test_build_imports_allowed_packages_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ownplugin.py").write_text(
        "from dataclasses import dataclass\nfrom lightexp.models.lenet5 import LeNet5\n"
        "@dataclass(frozen=True)\nclass Own(LeNet5):\n    depth: int = 2\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    node = {"_target_": "ownplugin.Own", "depth": 3}
    with pytest.raises(BadInput, match=r"add plugins=\[ownplugin\]"):
        build(node, Model, "model")  # type: ignore[type-abstract]
    assert "ownplugin" not in sys.modules  # was not imported
    assert build(node, Model, "model", ("ownplugin",)).depth == 3  # type: ignore
    del sys.modules["ownplugin"]


def test_locate_returns_the_class() -> None:
    assert locate("lightexp.models.small_cnn.SmallCnn", "m") is SmallCnn
    assert issubclass(locate("lightexp.objectives.distill.Distillation", "m"), TrainingObjective)


any_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)
names = sorted(AllKinds.__dataclass_fields__)
ANNOTATIONS: dict[str, Callable[[Any], bool]] = {
    "share": lambda v: type(v) is float and 0 <= v <= 1,
    "sparsity": lambda v: type(v) is float and 0 <= v < 1,
    "positive": lambda v: type(v) is float and 0 < v < math.inf,
    "at_least_zero": lambda v: type(v) is float and 0 <= v < math.inf,
    "count": lambda v: type(v) is int and v >= 1,
    "index": lambda v: type(v) is int and v >= 0,
    "maybe": lambda v: v is None or (type(v) is int and v >= 1),
    "word": lambda v: v in ("one", "two"),
    "text": lambda v: type(v) is str,
    "flag": lambda v: type(v) is bool,
    "several": lambda v: all(type(i) is str for i in v),
    "named": lambda v: all(type(k) is str and 0 <= i < 1 for k, i in v.items()),
}
"""What each field of `AllKinds` accepts, by its annotation."""


@given(name=st.sampled_from(names), value=any_values)
def test_construct_accepts_only_valid_values(name: str, value: Any) -> None:
    try:
        accepted = getattr(construct(AllKinds, {name: value}, "e"), name)
    except BadInput as error:
        assert str(error).startswith(f"e.{name}")  # noqa: PT017
        assert len(str(error).splitlines()) == 1  # noqa: PT017
    else:
        assert ANNOTATIONS[name](accepted)
        assert accepted == value


@given(number=st.one_of(st.integers(1, 10**6), st.floats(0, 1, exclude_max=True)))
def test_construct_accepts_all_valid_numbers(number: float) -> None:
    if isinstance(number, int):
        assert construct(AllKinds, {"count": number, "maybe": number, "index": number}, "e").maybe == number
    else:
        assert construct(AllKinds, {"sparsity": number, "share": number, "named": {"a": number}}, "e").share == number


def test_construct_keeps_the_values() -> None:
    stage = build({**PRUNE, "sparsity": 0.75, "layers": {"conv*": 0.5}, "end_step": 10}, Stage, "s")  # type: ignore
    assert stage == Prune(objective=CrossEntropy(), sparsity=0.75, layers={"conv*": 0.5}, end_step=10)
    with pytest.raises(BadInput, match=r"^s: io=integer needs scheme=int8 or int16x8\. Received: scheme=default"):
        construct(Quantize, {"io": "integer"}, "s")


@settings_dataclass
class ValidatedSettings:
    """Settings that are also validated when they are constructed in Python."""

    share: Fraction = 0.5
    names: list[str] = field(default_factory=list)
    place: str = field(default="", metadata={"keyed": False})
    required: int = field(kw_only=True)

    def __post_init__(self) -> None:
        if self.place == "nowhere":
            raise ValueError(f"place must exist. Received: {self.place}.")


@pytest.mark.parametrize(
    ("create", "message"),
    [
        (
            lambda: ValidatedSettings(share=3.0, required=1),
            "ValidatedSettings.share: Input should be less than or equal to 1. Received: 3.0.",
        ),
        (
            lambda: ValidatedSettings(2, required=1),
            "ValidatedSettings.share: Input should be less than or equal to 1. Received: 2.",
        ),
        (
            lambda: ValidatedSettings(names=["a", 1], required=1),
            "ValidatedSettings.names.1: Input should be a valid string. Received: 1. "
            "Text that reads as a number needs quotes, in a shell two pairs: \"'1'\".",
        ),
        (
            lambda: ValidatedSettings(share=0.1),
            "ValidatedSettings needs more than it was given. Not given: ['required'].",
        ),
        (
            lambda: ValidatedSettings(place="nowhere", required=1),
            "ValidatedSettings: place must exist. Received: nowhere.",
        ),
        (
            lambda: ValidatedSettings(sharre=0.1, required=1),
            "ValidatedSettings.sharre: not a setting of ValidatedSettings: did you mean 'share'?",
        ),
        (
            lambda: replace(ValidatedSettings(required=1), share=-1.0),
            "ValidatedSettings.share: Input should be greater than or equal to 0.",
        ),
        (
            lambda: Prune(sparsity=3.0, epochs=-5, criterion="nonsense", objective=CrossEntropy()),  # type: ignore[arg-type]
            "Prune.epochs: Input should be greater than or equal to 1. Received: -5.",
        ),
        (lambda: Prune(sparsity=3.0), "Prune.sparsity: Input should be less than 1. Received: 3.0."),  # type: ignore[call-arg]
        (lambda: LeNet5(width="wide"), "LeNet5.width: Input should be a valid number. Received: 'wide'."),  # type: ignore[arg-type]
    ],
)
def test_settings_are_validated_from_python(create: Callable[[], object], message: str) -> None:
    for _ in range(2):  # before and after pydantic has built its validator
        with pytest.raises(BadInput) as caught:
            create()
        assert str(caught.value).startswith(message)
        assert isinstance(caught.value, ValueError)
        assert len(str(caught.value).splitlines()) == 1


def test_settings_are_frozen_dataclasses() -> None:
    settings = ValidatedSettings(share=1, required=2)
    assert (type(settings.share), settings.share) == (float, 1.0)
    assert replace(settings, required=3) == ValidatedSettings(1.0, required=3)
    assert [f.name for f in fields(settings) if not f.metadata.get("keyed", True)] == ["place"]
    with pytest.raises(FrozenInstanceError):
        settings.share = 0.5  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(settings)) == settings


def test_plain_dataclass_is_validated_by_construct() -> None:
    assert AllKinds(share=3.0).share == 3.0  # a plain dataclass of a plugin validates nothing in Python
    with pytest.raises(BadInput, match=r"^here\.every\.share: "):
        construct(AllKinds, {"share": 3.0}, "here.every")
