"""The files of a run: directory, checkpoints, saved configuration."""
