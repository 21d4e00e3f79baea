"""How an engine is built from an ONNX file."""
