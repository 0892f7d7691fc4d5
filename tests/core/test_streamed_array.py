"""Tests of arrays whose rows are read when they are indexed."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lightexp.core.streamed_array import StreamedArray

bounds = st.none() | st.integers(-12, 12)


@given(st.integers(0, 5), st.integers(0, 9), bounds, bounds, st.data())
def test_range_of_indices_reads_as_an_array_of_them(
    first: int, count: int, start: int | None, stop: int | None, data: st.DataObject
) -> None:
    rows = [slice(start, stop)]
    if count:
        rows.append(np.array(data.draw(st.lists(st.integers(0, count - 1))), np.intp))
    arrays = [
        StreamedArray(lambda indices: indices[:, None] * 10, indices, (1,), np.dtype(np.int64))
        for indices in (range(first, first + count), np.arange(first, first + count))
    ]
    for selected in rows:
        by_range, by_array = (array[selected] for array in arrays)
        np.testing.assert_array_equal(by_range, by_array)
    if count:
        by_range, by_array = (array.select(rows[1])[:] for array in arrays)
        np.testing.assert_array_equal(by_range, by_array)
