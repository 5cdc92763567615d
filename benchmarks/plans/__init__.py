"""Plans of CasArbi's cascade, compared: `python -m benchmarks.plans`."""
