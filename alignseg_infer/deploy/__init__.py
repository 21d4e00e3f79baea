"""How is a model handed to a program that is not this package?"""
