"""Handoff on a Dask cluster: the only part that talks to distributed and reads the clock."""
