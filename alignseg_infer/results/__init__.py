"""The segmentation of an image, and the formats it can be converted to."""
