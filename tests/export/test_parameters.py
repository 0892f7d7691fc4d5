"""Tests of the parameters' bytes in a `.lxe` file."""

from __future__ import annotations

import pytest

from lightexp.export.coder import UNIT
from lightexp.export.packing import CorruptFile
from lightexp.export.parameters import LATTICE, PRODUCT, CodingParameters, parse, round_share, serialize

LATTICE_EXAMPLE = CodingParameters(
    5, 12, 32, 1, LATTICE, share=round_share(5000), outputs=3, taps=1, inputs=4, row=1, factor=0x3DCCCCCD
)
PRODUCT_EXAMPLE = CodingParameters(300, 12, 32, 1, PRODUCT, reference=0, factor=0xBDCCCCCD)


def test_parameters_are_read_as_written() -> None:
    serialized = serialize(LATTICE_EXAMPLE) + serialize(PRODUCT_EXAMPLE)
    assert [parameters for parameters, _ in parse(serialized, 2)] == [LATTICE_EXAMPLE, PRODUCT_EXAMPLE]
    assert LATTICE_EXAMPLE.factor.to_bytes(4, "little") in serialized  # as in the rest of the file


@pytest.mark.parametrize("share", [0, 1, 16, 31, 32, 2341, UNIT - 1])
def test_shares_lose_less_than_one_in_16(share: int) -> None:
    rounded = round_share(share)
    assert rounded == 16 or 15 / 16 * share < rounded <= share
    assert round_share(rounded) == rounded


def test_shares_above_one_are_refused() -> None:
    serialized = bytearray(serialize(LATTICE_EXAMPLE))
    serialized[-5] = 0xC0  # the share, in front of the factor; the first that is `UNIT` or more
    with pytest.raises(CorruptFile, match="not valid"):
        list(parse(bytes(serialized), 2))
