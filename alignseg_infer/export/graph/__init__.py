"""From the network to an ONNX graph."""
