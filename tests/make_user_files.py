"""Write the files of their own that readers of the guides have: models, arrays, a table, images."""

from __future__ import annotations

import os
from pathlib import Path

os.environ["TF_USE_LEGACY_KERAS"] = "1"

import numpy as np
import tensorflow as tf
import tf_keras
from PIL import Image

random = np.random.default_rng(0)


def write_models() -> None:
    """Write a small classifier of images of 8x8 pixels as `net.keras` and `net.tflite`."""
    layers = tf_keras.layers
    model = tf_keras.Sequential(
        [
            layers.Input((8, 8, 1)),
            layers.Conv2D(4, 3, activation="relu", name="conv1"),
            layers.Flatten(),
            layers.Dense(10, activation="softmax", name="dense"),
        ]
    )
    model.save("net.keras")
    Path("net.tflite").write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())


def write_data() -> None:
    """Write `data.npz`, `houses.csv` and the folder `photos`."""
    images = random.integers(0, 256, (100, 8, 8, 1), dtype=np.uint8)
    np.savez("data.npz", x=images, y=np.arange(100) % 10)
    rows = [f"{area},{area % 3},{'north' if area % 2 else 'south'},{area * 1000}" for area in range(40, 140)]
    Path("houses.csv").write_text("\n".join(["area,rooms,side,price", *rows]) + "\n")
    for name in ("cat", "dog"):
        Path("photos", name).mkdir(parents=True)
        for number in range(20):
            Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(f"photos/{name}/{number}.png")


write_models()
write_data()
