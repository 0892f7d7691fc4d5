"""The CIFAR-100 data set."""

from __future__ import annotations

from typing import ClassVar, Literal

from lightexp.core.config import settings_dataclass
from lightexp.datasets.cifar import Cifar, CifarFormat


@settings_dataclass
class Cifar100(Cifar):
    """CIFAR-100 (Krizhevsky, 2009): 32x32 colour photographs in 100 classes or 20 superclasses.

    50,000 for training, of which 10,000 are held out for validation, and 10,000 for testing. Raw pixels are uint8,
    `(n, 32, 32, 3)`; inputs are from 0 to 1.

    Attributes:
        labels: `fine` for 100 classes or `coarse` for 20. Defaults to `fine`.
        split_seed: Seed that decides which training examples are held out for validation.
        folder: Folder that holds the files of the Python or the binary version, or its `.tar.gz`; None to search for
            them.
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

    def _label_column(self) -> str:
        return f"{self.labels}_labels"

    def _count_classes(self) -> int:
        return 100 if self.labels == "fine" else 20
