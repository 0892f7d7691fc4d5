"""Outages are reported once."""

from __future__ import annotations

from lightexp.execution.outage import OutageReporter


def test_outage_is_reported_once() -> None:
    reports: list[str] = []
    outage = OutageReporter("The store", reports.append)
    outage.end()
    outage.wait(OSError("no route\nto host"))
    outage.wait(OSError("no route"))
    outage.end()
    outage.end()
    assert reports == ["The store has gone away (no route). Waiting for it.", "The store is back."]
