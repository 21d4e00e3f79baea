"""Do a file and the one it was made from agree?"""
