"""Paths that users gave, checks before files are read, and files written whole or not at all."""
