"""Networks that belong to one method; their first argument is the scale."""
