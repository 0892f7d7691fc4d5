"""The Python API: the commands `run`, `search`, `ablate` and `report` as functions that work in worker processes."""
