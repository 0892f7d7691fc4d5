"""Translate a float `.tflite` into the description of an equivalent Keras model, without TensorFlow."""
