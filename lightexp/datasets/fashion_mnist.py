"""The Fashion-MNIST data set."""

from __future__ import annotations

from typing import ClassVar

from lightexp.core.config import settings_dataclass
from lightexp.datasets.mnist_files import MnistFiles


@settings_dataclass
class FashionMnist(MnistFiles):
    """Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017): 28x28 grey images of clothing in 10 classes.

    60,000 for training, of which 10,000 are held out for validation, and 10,000 for testing. Raw pixels are uint8,
    `(n, 28, 28, 1)`; inputs are from 0 to 1. The files may come from Debian's package `dataset-fashion-mnist`.

    Attributes:
        split_seed: Seed that decides which training examples are held out for validation.
        folder: Folder that holds the four `.gz` files; None to search for them.
    """

    title: ClassVar[str] = "fashion_mnist"
    names: ClassVar[tuple[str, ...]] = (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    )  # fmt: skip
    system_folder: ClassVar[str] = "fashion-mnist"
    cache_folder: ClassVar[str] = "fashion-mnist"
    package: ClassVar[str | None] = "dataset-fashion-mnist"
    digests: ClassVar[dict[str, str]] = {
        "train-images-idx3-ubyte.gz": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte.gz": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte.gz": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte.gz": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    }
