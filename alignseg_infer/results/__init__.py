"""What a segmentation is, and what it can be turned into."""
