"""The CIFAR-10 data set."""

from __future__ import annotations

from typing import ClassVar

from lightexp.core.config import settings_dataclass
from lightexp.datasets.cifar import Cifar, CifarFormat

_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))


@settings_dataclass
class Cifar10(Cifar):
    """CIFAR-10 (Krizhevsky, 2009): 32x32 colour photographs of animals and vehicles in 10 classes.

    50,000 for training, of which 10,000 are held out for validation, and 10,000 for testing. Raw pixels are uint8,
    `(n, 32, 32, 3)`; inputs are from 0 to 1.

    Attributes:
        split_seed: Seed that decides which training examples are held out for validation.
        folder: Folder that holds the files of the Python or the binary version, or its `.tar.gz`; None to search for
            them.
    """

    title: ClassVar[str] = "cifar10"
    names: ClassVar[tuple[str, ...]] = (
        "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
    )  # fmt: skip
    system_folder: ClassVar[str] = "cifar-10"
    python: ClassVar[CifarFormat] = CifarFormat(
        "cifar-10-batches-py", "cifar-10-python.tar.gz", (*_BATCHES, "test_batch")
    )
    binary: ClassVar[CifarFormat] = CifarFormat(
        "cifar-10-batches-bin", "cifar-10-binary.tar.gz", (*(f"{name}.bin" for name in _BATCHES), "test_batch.bin")
    )
    sha256: ClassVar[str] = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
    columns: ClassVar[tuple[str, ...]] = ("labels",)
