"""The facts that travel with a model."""
