"""What is measured on a GPU, in steps that a time limit cannot take back: see `plan`."""
