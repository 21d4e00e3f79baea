"""How does a checkpoint become a file? Each file is checked before it appears."""
