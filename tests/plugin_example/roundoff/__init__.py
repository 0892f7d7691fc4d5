"""Methods for lightexp in a separate package: one module and one file in `conf/` for each."""
