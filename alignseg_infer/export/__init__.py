"""Build time: from a checkpoint to an ONNX file that is checked before it appears."""
