"""Tests of how examples become the inputs that a model takes."""

from __future__ import annotations

import numpy as np
import pytest

from lightexp.core.layout import LayoutChoice, describe_layout, find_layout, has_outputs

Shape = tuple[int, ...]


@pytest.mark.parametrize(
    ("example", "expected", "choice", "channels_first"),
    [
        ((8, 9, 3), (8, 9, 3), "auto", False),
        ((8, 9, 3), (3, 8, 9), "auto", True),
        ((8, 9, 3), (3, 8, 9), "nchw", True),
        ((8, 9, 3), (3, 8, 9), "nhwc", None),
        ((8, 9, 3), (9, 8, 3), "auto", None),
        ((8, 9, 3), (8, 9, 1), "auto", None),
        ((8, 9, 3), (216,), "auto", False),
        ((8, 9, 3), (216,), "nchw", True),
        ((8, 9, 3), (216,), "nhwc", False),
        ((8, 9, 1), (1, 8, 9), "auto", False),
        ((8, 9, 1), (8, 9), "auto", False),
        ((8, 9), (9, 8), "auto", True),
        ((8, 9), (9, 1, 8), "auto", True),
        ((8, 9), (1, 8, 9), "auto", False),
        ((3, 3, 3), (3, 3, 3), "auto", False),
        ((3, 3, 3), (3, 3, 3), "nchw", True),
        ((8, 9, 3), (8, 9, 3), "nchw", False),
        ((72,), (8, 9, 1), "auto", False),
        ((5,), (5,), "nchw", False),
        ((5,), (6,), "auto", None),
    ],
)
def test_layout_is_what_fits(
    example: Shape, expected: Shape, choice: LayoutChoice, channels_first: bool | None
) -> None:
    layout = find_layout(example, expected, choice)
    if channels_first is None:
        assert layout is None
        return
    assert layout is not None
    assert layout.channels_first == channels_first
    examples = np.arange(2 * int(np.prod(example))).reshape(2, *example)
    ordered = np.moveaxis(examples, -1, 1) if channels_first else examples
    assert np.array_equal(layout.arrange(examples), ordered.reshape(2, *expected))
    inputs = np.zeros((2, *expected), int)
    layout.view(inputs, example)[:] = examples
    assert np.array_equal(inputs, layout.arrange(examples))
    assert (describe_layout(example, layout) is None) == (example == expected and not channels_first)


def test_ambiguous_order_is_said() -> None:
    def describe(example: Shape, expected: Shape) -> str:
        layout = find_layout(example, expected)
        assert layout is not None
        return str(describe_layout(example, layout))

    assert "channels first" in describe((8, 9, 3), (3, 8, 9))
    assert describe((8, 9, 3), (216,)).endswith("set model.layout=nchw.")
    assert "model.layout" not in describe((8, 9, 1), (72,))


@pytest.mark.parametrize(("shape", "fits"), [((4,), True), ((1, 1, 4), True), ((4, 1, 1), True), ((2, 2), False)])
def test_outputs_lie_along_one_axis(shape: Shape, fits: bool) -> None:
    assert has_outputs(shape, 4) == fits
    assert not has_outputs(shape, 5)


def test_outputs_may_have_the_shape_of_inputs() -> None:
    assert has_outputs((2, 3), 6, (2, 3)) and not has_outputs((3, 2), 6, (2, 3))


@pytest.mark.parametrize("expected", [(3, 4, 2), (4, 2, 3), (24,)])
@pytest.mark.parametrize("choice", ["auto", "nchw"])
def test_restored_outputs_undo_the_arrangement(expected: Shape, choice: LayoutChoice) -> None:
    layout = find_layout((4, 2, 3), expected, choice if len(expected) == 1 else "auto")
    assert layout is not None
    examples = np.arange(48).reshape(2, 4, 2, 3)
    assert np.array_equal(layout.restore(layout.arrange(examples), (4, 2, 3)), examples.reshape(2, -1))
    assert np.array_equal(layout.restore(examples[:, :1], (4, 2, 3)), examples[:, :1].reshape(2, -1))
