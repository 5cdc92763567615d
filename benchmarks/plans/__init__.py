"""Which plan suits a cascade: `python -m benchmarks.plans`."""
