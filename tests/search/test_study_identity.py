"""What makes two studies the same, over versions of lightexp."""

from __future__ import annotations

from dataclasses import dataclass, field

from lightexp.core.config import settings_dataclass
from lightexp.metrics.size import Size
from lightexp.search.study_identity import describe_identity


@settings_dataclass
class Blur:
    """Settings that a later version has given a second field."""

    radius: int = 1
    strength: float = 0.5


@dataclass(frozen=True)
class Scene:
    """Settings with nested settings and a field that is not part of the identity."""

    blur: Blur = field(default_factory=Blur)
    path: str = field(default="", metadata={"keyed": False})


def test_describe_identity_names_values_as_the_config_does() -> None:
    identity = describe_identity({"stage": Scene(Blur(2)), "order": ["a", "b"], "layers": {}})
    assert {name: text for name, text in identity.values.items() if not name.endswith((".type", ".source"))} == {
        "layers": "{}",
        "order": '["a", "b"]',
        "stage.blur.radius": "2",
        "stage.blur.strength": "0.5",
        "stage.blur.version": "1",
        "stage.version": "1",
    }
    assert "stage.blur.strength" in identity.at_default
    assert "stage.blur.radius" not in identity.at_default


def test_find_difference_names_the_first_changed_setting() -> None:
    stored = describe_identity({"stage": Scene(Blur(2, 0.25))}).values
    present = describe_identity({"stage": Scene(Blur(3, 0.75))})
    assert present.find_difference(stored) == ("stage.blur.radius", "2", "3")
    assert describe_identity({"stage": Scene(Blur(2, 0.25))}).find_difference(stored) is None


def test_find_difference_accepts_an_added_default() -> None:
    stored = dict(describe_identity({"stage": Blur()}).values)
    del stored["stage.strength"]
    assert describe_identity({"stage": Blur()}).find_difference(stored) is None
    assert describe_identity({"stage": Blur(strength=0.75)}).find_difference(stored) == (
        "stage.strength",
        "nothing",
        "0.75",
    )


def test_find_difference_reports_a_setting_that_is_gone() -> None:
    stored = {**describe_identity({"stage": Blur()}).values, "stage.sigma": "3"}
    assert describe_identity({"stage": Blur()}).find_difference(stored) == ("stage.sigma", "3", "nothing")


def test_find_difference_knows_the_former_package_of_metrics() -> None:
    identity = describe_identity({"measure.size": Size()})
    stored = {**identity.values, "measure.size.type": '"lightexp.measure.size.Size"'}
    assert identity.values["measure.size.type"] == '"lightexp.metrics.size.Size"'
    assert identity.find_difference(stored) is None


def test_identity_does_not_depend_on_a_password() -> None:
    uri = "postgresql://me:{0}@host/db?password={0}".format
    stored = describe_identity({"source": uri("first")}).values
    assert "first" not in str(stored)
    assert describe_identity({"source": uri("second")}).find_difference(stored) is None
    assert describe_identity({"source": uri("second")}).find_difference({"source": f'"{uri("third")}"'}) is None
