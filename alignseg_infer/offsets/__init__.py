"""What the network learned to align: its offsets, measured and drawn."""
