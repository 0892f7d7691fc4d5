"""Mirrors of records, and the trade-off of one run."""
