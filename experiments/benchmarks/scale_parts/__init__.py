"""Parts of the scaling benchmark, one module each: its first line says what grows, `measure` returns the results."""
