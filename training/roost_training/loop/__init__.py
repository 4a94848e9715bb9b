"""The training loop and what it keeps: settings, optimiser, checkpoints, scores, the run folder."""
