"""Handoff against stock Dask, side by side on one machine: ``python -m benchmarks --help``."""
