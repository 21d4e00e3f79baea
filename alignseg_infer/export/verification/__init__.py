"""Does a file compute the same as what it was made from?"""
