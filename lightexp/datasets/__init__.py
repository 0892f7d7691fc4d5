"""Data sets, one file per source; `splits` holds out validation and test examples."""
