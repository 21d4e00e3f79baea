"""Building an engine from an ONNX file."""
