"""Tests of IDX files; `test_mnist_files` has those of damaged headers."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightexp.core.errors import BadInput
from lightexp.datasets.idx import read_idx
from tests.datasets.files import idx_bytes

CONTENT = gzip.compress(idx_bytes(np.random.default_rng(0).integers(0, 9, (6, 28, 28), np.uint8)))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.integers(0, len(CONTENT) - 1), st.integers(1, 255), st.booleans())
def test_read_idx_altered_bytes_refused_or_harmless(tmp_path: Path, at: int, mask: int, cut: bool) -> None:
    path = tmp_path / "some.gz"
    path.write_bytes(CONTENT[:at] if cut else CONTENT[:at] + bytes([CONTENT[at] ^ mask]) + CONTENT[at + 1 :])
    message = ""
    try:
        images = read_idx(path, (28, 28), "Replace it.")
    except BadInput as error:
        message = str(error)
    else:  # a flag or a date in gzip's header
        assert not cut
        assert idx_bytes(images) == gzip.decompress(CONTENT)
    assert "\n" not in message
