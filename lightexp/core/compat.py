"""Private attributes of other libraries: the only module that may touch them.

Each function says why no public interface does, and for which version of the library; `tests/core/test_compat.py`
fails when the library changes what the function relies on.
"""

from __future__ import annotations
