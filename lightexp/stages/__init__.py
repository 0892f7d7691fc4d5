"""Stages of a pipeline, one compression or training method per file."""
