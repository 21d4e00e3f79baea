"""How does a model become INT8, and what does that cost in accuracy?"""
