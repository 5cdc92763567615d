"""Images in memory enlarged and measured, for ``enlarger.py`` and the commands."""
