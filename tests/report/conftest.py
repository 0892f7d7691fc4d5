"""Fixtures of the report's tests."""

from __future__ import annotations

from tests.tracking.conftest import make_record

__all__ = ["make_record"]
