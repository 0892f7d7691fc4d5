"""Models: architectures, one per file, and models read from files."""
