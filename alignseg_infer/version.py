"""The version of this package; it imports nothing, so that every module can."""

__version__ = "0.1.0"
