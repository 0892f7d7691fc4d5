"""The only code that imports TensorFlow, tf_keras, tfmot, LiteRT, TFLite Micro, the quantiser and Vela."""
