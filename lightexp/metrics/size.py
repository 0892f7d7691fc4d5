"""How large the shipped file is."""

from __future__ import annotations

import gzip

from lightexp.core.config import settings_dataclass
from lightexp.core.protocols import Measurement, MeasurementContext, Metric


@settings_dataclass
class Size(Measurement):
    """Bytes of the file as it is, after gzip (level 9) and encoded; how many times smaller than the control it is."""

    gives = {"size/file_bytes": "min", "size/gzip_bytes": "min", "size/ratio": "max"}

    def measure(self, subject: MeasurementContext) -> list[Metric]:
        """Measures `size/file_bytes`, `size/gzip_bytes`, `size/ratio`; `size/encoded_*` where there is such a file."""
        content = subject.tflite.read_bytes()
        control = subject.control.stat().st_size
        figures = [
            Metric("size/file_bytes", len(content), "bytes", "min", version=self.version),
            Metric("size/ratio", control / len(content), "", "max", version=self.version),
        ]
        if subject.wanted is None or "size/gzip_bytes" in subject.wanted:  # of a megabyte, it takes 50 ms
            packed = len(gzip.compress(content, compresslevel=9, mtime=0))
            figures.insert(1, Metric("size/gzip_bytes", packed, "bytes", "min", version=self.version))
        if subject.encoded:
            size = subject.encoded.stat().st_size
            figures += [
                Metric("size/encoded_bytes", size, "bytes", "min", version=self.version),
                Metric("size/encoded_ratio", control / size, "", "max", version=self.version),
            ]
        return figures
