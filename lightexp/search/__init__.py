"""Studies: Optuna proposes a pipeline's settings, the runner tries them, the front of trade-offs is what remains."""
