"""INT8: calibration, quantization, and what they cost in accuracy."""
