"""Files, signals, checkpoints and batches around the loop of every stage."""
