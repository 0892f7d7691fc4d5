"""Methods of our own for lightexp: one module and one file in `conf/` for each."""
