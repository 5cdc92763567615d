"""Result files of a run, and their comparison."""
