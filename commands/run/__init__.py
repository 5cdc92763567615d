"""The files of a run: directory, checkpoints, weights."""
