"""Patterns of zeros and values in kernels, compared with plain loops."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lightexp.core.patterns import count_distinct_values, count_zero_blocks, find_shortfall, is_n_of_m, read_kernel
from lightexp.core.tflite_graph import Tensor


def test_read_kernel_has_the_keras_layout() -> None:
    keras = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    stored = np.transpose(keras, (3, 0, 1, 2)).astype(np.int8)  # OHWI
    tensor = Tensor("k", stored.shape, "INT8", stored, (0.5,), (0,))
    np.testing.assert_array_equal(read_kernel(tensor), keras)
    shifted = Tensor("k", stored.shape, "INT8", stored, (0.5,), (3,))
    np.testing.assert_array_equal(read_kernel(shifted), keras - 3)
    dense = np.arange(12).reshape(3, 4)
    np.testing.assert_array_equal(read_kernel(Tensor("d", (4, 3), "FLOAT32", dense.T)), dense)


kernels = st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 5), st.integers(0, 2**31)).map(
    lambda s: np.random.default_rng(s[3]).integers(-1, 2, s[:3])
)


@given(kernels, st.integers(1, 4), st.integers(2, 5))
def test_patterns_equal_plain_loops(kernel: Any, n: int, m: int) -> None:
    taps, inputs, outputs = kernel.shape
    groups = [kernel[t, i : i + m, o] for t in range(taps) for o in range(outputs) for i in range(0, inputs, m)]
    assert is_n_of_m(kernel, n, m) == all(np.count_nonzero(group) <= n for group in groups)
    matrix = kernel.reshape(-1, outputs)
    blocks = [matrix[r : r + n, c : c + m] for r in range(0, len(matrix), n) for c in range(0, outputs, m)]
    assert count_zero_blocks(kernel, (n, m)) == sum(not block.any() for block in blocks)
    counts = [len(set(kernel[..., o].ravel().tolist())) for o in range(outputs)]
    assert count_distinct_values(kernel, per_channel=True) == max(counts)
    assert count_distinct_values(kernel, per_channel=False) == len(set(kernel.ravel().tolist()))


def test_find_shortfall_compares_kernels_of_one_size() -> None:
    sizes = {"a": 8, "b": 8, "c": 12}
    required = {"a": 6, "b": 4, "c": 10}

    def find(*unnamed: tuple[int, int], **named: tuple[int, int]) -> Any:
        kernels = [(["k"], *pair) for pair in unnamed]
        kernels += [([f"net/{name}/MatMul", name], *pair) for name, pair in named.items()]
        return find_shortfall(required, sizes, kernels)

    assert find((12, 10), (8, 4), (8, 6)) is None
    assert find((12, 11), (8, 9), (8, 9), (6, 0)) is None
    assert find((12, 10), (8, 5), (8, 5)) == (8, 6, 5)
    assert find((8, 4), (8, 6)) == (12, 10, float("-inf"))
    assert find((12, 10), a=(8, 6), b=(8, 4)) is None
    assert find((12, 10), a=(8, 4), b=(8, 6)) == (8, 6, 4)  # the names decide which kernel is whose
    assert find((12, 10), quant_a=(8, 4), quant_b=(8, 6)) == (8, 6, 4)
    assert find((12, 10), (8, 4), a=(8, 6)) is None
    assert find((12, 10), (8, 6), a=(8, 4)) == (8, 6, 4)
    assert find((8, 4), (8, 6), (12, 9), a=(12, 10)) is None  # a kernel of another size is not the layer's
    fused = [(["net/b/MatMul;net/a/MatMul", "b", "a"], 8, 6), (["net/b/MatMul", "b"], 8, 4), (["k"], 12, 10)]
    assert find_shortfall(dict(reversed(required.items())), sizes, fused) is None
