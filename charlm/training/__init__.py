"""Training: the loop, its settings, and the folder of a run."""
