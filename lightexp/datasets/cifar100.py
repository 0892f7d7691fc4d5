"""CIFAR-100."""

from __future__ import annotations

from typing import ClassVar, Literal

from lightexp.core.config import settings_dataclass
from lightexp.datasets.cifar import Cifar, CifarFormat


@settings_dataclass
class Cifar100(Cifar):
    """CIFAR-100 (Krizhevsky, 2009): 32x32 colour photographs in 100 classes, or the 20 that these belong to.

    50,000 for training, of which 10,000 are held out for validation, and 10,000 for the test. Raw pixels are uint8,
    `(n, 32, 32, 3)`; inputs are from 0 to 1.

    Attributes:
        labels: `fine`, 100 classes, or `coarse`, 20. Defaults to `fine`.
        split_seed: Decides which training examples are held out for validation.
        folder: A folder that holds the files of the Python or the binary version, or its `.tar.gz`; None to search.
    """

    title: ClassVar[str] = "cifar100"
    system_folder: ClassVar[str] = "cifar-100"
    python: ClassVar[CifarFormat] = CifarFormat("cifar-100-python", "cifar-100-python.tar.gz", ("train", "test"))
    binary: ClassVar[CifarFormat] = CifarFormat(
        "cifar-100-binary", "cifar-100-binary.tar.gz", ("train.bin", "test.bin")
    )
    sha256: ClassVar[str] = "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7"
    columns: ClassVar[tuple[str, ...]] = ("coarse_labels", "fine_labels")

    labels: Literal["fine", "coarse"] = "fine"

    def _column(self) -> str:
        return f"{self.labels}_labels"

    def _classes(self) -> int:
        return {"fine": 100, "coarse": 20}[self.labels]
