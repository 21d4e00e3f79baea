"""How good the labels are: mean IoU and its kin, on labelled images."""
