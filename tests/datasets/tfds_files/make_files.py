"""Prepare the data set of this folder with TensorFlow Datasets (4.9.10), which the tests do not need.

pip install tensorflow-datasets tensorflow && python tests/datasets/tfds_files/make_files.py
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds


class TinySeries(tfds.core.GeneratorBasedBuilder):
    """Series of four steps and two channels, which hold their number."""

    VERSION = tfds.core.Version("2.1.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="short", version="2.1.0", description="Four steps.")]

    def _info(self) -> Any:
        signal = tfds.features.Tensor(shape=(4, 2), dtype=np.float32)
        label = tfds.features.ClassLabel(names=["a", "b", "c"])
        features = tfds.features.FeaturesDict({"signal": signal, "label": label})
        return tfds.core.DatasetInfo(builder=self, description="Tiny series.", features=features)

    def _split_generators(self, manager: Any) -> dict[str, Any]:
        return {"train": self._generate_examples(12), "validation": self._generate_examples(3)}

    def _generate_examples(self, count: int) -> Iterator[tuple[int, dict[str, Any]]]:
        for number in range(count):
            signal = np.arange(8, dtype=np.float32).reshape(4, 2) + 100 * number
            yield number, {"signal": signal, "label": number % 3}


if __name__ == "__main__":
    TinySeries(data_dir=str(Path(__file__).parent), file_format="tfrecord").download_and_prepare()
