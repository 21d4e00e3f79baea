"""How images flow through a network."""
