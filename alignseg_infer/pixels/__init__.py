"""From image files to the network's input, and from its output to labels."""
