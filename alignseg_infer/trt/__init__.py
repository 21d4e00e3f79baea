"""TensorRT and TensorRT-RTX: how an engine is built and run."""
