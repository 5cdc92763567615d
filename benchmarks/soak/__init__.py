"""Hours of training under faults."""
