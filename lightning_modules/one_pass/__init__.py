"""Methods whose output is one pass of a network, and terms of their losses."""
