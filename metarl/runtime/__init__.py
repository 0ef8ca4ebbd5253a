"""A run, whatever is learnt: its folder, checkpoints, metrics and training loop."""
