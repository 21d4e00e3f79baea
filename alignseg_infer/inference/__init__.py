"""The way of images through a network."""
