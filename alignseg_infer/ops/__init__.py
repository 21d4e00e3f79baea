"""The numeric definitions of the special operations, which everything else is tested against.

They are written in PyTorch, except for `offset_fields`.
"""
