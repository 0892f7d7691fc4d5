"""The MNIST data set."""

from __future__ import annotations

from typing import ClassVar

from lightexp.core.config import settings_dataclass
from lightexp.datasets.mnist_files import MnistFiles


@settings_dataclass
class Mnist(MnistFiles):
    """MNIST (LeCun, Cortes and Burges): 28x28 grey images of handwritten digits in 10 classes.

    60,000 for training, of which 10,000 are held out for validation, and 10,000 for testing. Raw pixels are uint8,
    `(n, 28, 28, 1)`; inputs are from 0 to 1.

    Attributes:
        split_seed: Seed that decides which training examples are held out for validation.
        folder: Folder that holds Keras' `mnist.npz` or the four `.gz` files; None to search for them.
    """

    title: ClassVar[str] = "mnist"
    system_folder: ClassVar[str] = "mnist"
    archive: ClassVar[str | None] = "mnist.npz"
    digests: ClassVar[dict[str, str]] = {
        "mnist.npz": "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1"
    }
