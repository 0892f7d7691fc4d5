"""The only code that imports TensorFlow, tf_keras, tfmot, LiteRT, TFLite Micro and the quantiser."""
