"""What a cluster runs and remembers, as a list."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

__all__ = ["ExecutionInfo"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionInfo:
    """One execution on a cluster, whoever has submitted it."""

    dag_id: Hashable
    #: Its name on the scheduler.
    token: str
    #: The Dask client that submitted it.
    client: str
    status: str
    #: ``{status: how many functions}``.
    counts: Mapping[str, int]
    #: Seconds since the epoch.
    submitted: float
    ended: float | None
    #: Whether it outlives its client.
    is_detached: bool
