"""The AlignSeg network in PyTorch, its checkpoints, and its exact rewrites for inference."""
