"""How pictures are drawn: masks, the text in them, and charts."""
