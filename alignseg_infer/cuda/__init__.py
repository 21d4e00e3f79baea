"""CUDA from Python: one seam with two implementations, and this package's kernels."""
