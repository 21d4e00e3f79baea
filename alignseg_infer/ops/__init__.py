"""Numeric definitions of the special operations, in PyTorch. All else is tested against them."""
