"""Numeric definitions of the special operations, in PyTorch but for `offset_fields`.

All else is tested against them.
"""
