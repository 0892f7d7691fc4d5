"""A user's package whose stage does what trials can go wrong by, in seconds and without TensorFlow."""
