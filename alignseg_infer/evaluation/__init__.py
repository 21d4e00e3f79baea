"""How good predicted labels are: mean IoU and other scores on labelled images."""
