"""The command line: the LightningCLI, the run directory, weights by name."""
