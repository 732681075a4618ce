"""The commands ``dask handoff …``; also ``python -m handoff_dask.cli``."""

from handoff_dask.cli.commands import handoff

__all__ = ["handoff"]
