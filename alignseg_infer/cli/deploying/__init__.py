"""One module for each consumer of ``alignseg deploy``."""
