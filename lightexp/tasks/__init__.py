"""Tasks, one per file: what a model learns, and how good it is."""
