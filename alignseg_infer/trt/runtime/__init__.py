"""How an engine is run."""
