"""How large the shipped file is."""

from __future__ import annotations

import gzip
from dataclasses import dataclass

from lightexp.core.protocols import Figure, Measurement, Subject


@dataclass(frozen=True)
class Size(Measurement):
    """Bytes of the file as it is and after gzip (level 9), and how many times smaller than the control it is."""

    gives = {"size/file_bytes": "min", "size/gzip_bytes": "min", "size/ratio": "max"}

    def measure(self, subject: Subject) -> list[Figure]:
        """Measures `size/file_bytes`, `size/gzip_bytes` and `size/ratio`."""
        content = subject.tflite.read_bytes()
        packed = gzip.compress(content, compresslevel=9, mtime=0)
        ratio = subject.control.stat().st_size / len(content)
        return [
            Figure("size/file_bytes", len(content), "bytes", "min", version=self.version),
            Figure("size/gzip_bytes", len(packed), "bytes", "min", version=self.version),
            Figure("size/ratio", ratio, "", "max", version=self.version),
        ]
