"""Building and running engines with TensorRT and TensorRT-RTX."""
