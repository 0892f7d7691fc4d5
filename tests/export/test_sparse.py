"""Tests of the orders in which sparse constants are coded."""

from __future__ import annotations

import numpy as np

from lightexp.core.tflite_graph import ConstantSpan
from lightexp.export import sparse
from tests.export.encoded_files import make_span


def make_levels(outputs: int, inputs: int) -> np.ndarray:
    """Return a matrix of -1, 0 and 1 without any structure."""
    return np.random.default_rng(0).integers(-1, 2, (outputs, inputs)).astype(np.int8)


def arrange(matrix: np.ndarray, *others: ConstantSpan) -> tuple[int, int, int, int]:
    """Return outputs, taps, inputs and taps in a row."""
    scan = sparse.list_scans(matrix.view(np.uint8).reshape(-1), make_span(matrix), others)[0][0].scan
    return scan.outputs, scan.taps, scan.inputs, scan.row


def test_matrix_behind_a_convolution_is_an_image() -> None:
    """So that its neighbours are those of one channel, 50 inputs before, and its image's row has 4 taps."""
    matrix = make_levels(30, 800)
    kernels = [make_span(np.zeros((count, 5, 5, 20), np.int8)) for count in (20, 50)]
    assert arrange(matrix, *kernels) == (30, 16, 50, 4)
    assert arrange(matrix) == (30, 1, 800, 1)


def test_matrix_behind_a_matrix_is_no_image() -> None:
    matrix = make_levels(10, 500)
    kernel, dense = (make_span(np.zeros(shape, np.int8)) for shape in ((20, 5, 5, 1), (500, 800)))
    assert arrange(matrix, kernel) == (10, 25, 20, 5)
    assert arrange(matrix, kernel, dense) == (10, 1, 500, 1)
