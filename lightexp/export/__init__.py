"""Files for devices: the entropy-coded `.lxe` container, C arrays, and metadata in a `.tflite`."""
