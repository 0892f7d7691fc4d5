"""Measurements of the file that would ship, one kind per file."""
