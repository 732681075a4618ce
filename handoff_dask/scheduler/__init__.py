"""What runs in the process of Dask's scheduler."""
