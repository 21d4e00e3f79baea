"""How does the network become an ONNX graph?"""
