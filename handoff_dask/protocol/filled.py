"""Inputs in which results stand: these are put in their places on a worker."""

from __future__ import annotations

from typing import Any

from handoff_dask.graph.arguments import fill
from handoff_dask.protocol.packing import opened


class Filled:
    """The call of a task that puts results into a value.

    Parameters
    ----------
    value
        A :class:`~handoff_dask.graph.arguments.Structure`, packed or not.
    """

    def __init__(self, value: Any) -> None:
        self.value = value

    def __call__(self, *results: Any) -> Any:
        """Give the whole value."""
        return fill(opened(self.value), iter(results))
