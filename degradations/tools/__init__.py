"""Commands about degradations: preview, freeze, statistics."""
