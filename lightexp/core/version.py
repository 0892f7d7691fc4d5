"""The package's version, which `pyproject.toml` and `CITATION.cff` repeat."""

__version__ = "0.2.0"
