"""Measure the size of the shipped file."""

from __future__ import annotations

import gzip

from lightexp.core.config import settings_dataclass
from lightexp.core.protocols import Measurement, MeasurementContext, Metric


@settings_dataclass
class Size(Measurement):
    """Bytes of the file, plain, gzipped (level 9) and encoded, and the control's size divided by them."""

    gives = {"size/file_bytes": "min", "size/gzip_bytes": "min", "size/ratio": "max"}

    def measure(self, context: MeasurementContext) -> list[Metric]:
        """Measure `size/file_bytes`, `size/gzip_bytes`, `size/ratio`, and `size/encoded_*` of an encoded file."""
        content = context.tflite.read_bytes()
        control_size = context.control.stat().st_size
        metrics = [Metric("size/file_bytes", len(content), "bytes", "min", version=self.version)]
        # gzip takes 50 ms per megabyte
        if context.requested is None or "size/gzip_bytes" in context.requested:
            gzip_size = len(gzip.compress(content, compresslevel=9, mtime=0))
            metrics.append(Metric("size/gzip_bytes", gzip_size, "bytes", "min", version=self.version))
        metrics.append(Metric("size/ratio", control_size / len(content), "", "max", version=self.version))
        if context.encoded:
            encoded_size = context.encoded.stat().st_size
            metrics += [
                Metric("size/encoded_bytes", encoded_size, "bytes", "min", version=self.version),
                Metric("size/encoded_ratio", control_size / encoded_size, "", "max", version=self.version),
            ]
        return metrics
