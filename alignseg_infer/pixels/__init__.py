"""Pixels in and out: reading images, the network's input, labels from its output."""
