"""Handoff for Python, as an integration of Dask distributed."""
