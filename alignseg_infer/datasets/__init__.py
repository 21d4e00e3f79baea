"""Class tables, labelled images, and sets of images to calibrate with."""
