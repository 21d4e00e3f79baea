"""The AlignSeg network in PyTorch, its checkpoints, and the exact rewrites made for inference."""
