"""Write small image files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

PIXELS = np.random.default_rng(0).integers(0, 256, (60, 12, 10, 3), np.uint8)


def save(path: Path, pixels: Any, **options: Any) -> Path:
    """Write pixels in the format of the path's suffix, and return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path
