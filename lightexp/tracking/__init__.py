"""Mirrors of run records and of studies, in MLflow."""
