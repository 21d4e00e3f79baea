"""Keeps the engines that were built for ``.onnx`` files, and finds them again."""
