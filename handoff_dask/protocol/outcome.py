"""How a run stands, and how it ended, as the scheduler tells its client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from handoff_dask.record.usage import MemoryShortage

#: A run that ends within so many seconds is not worth planning.
LEAST_PLANNED_S = 1.0


@dataclass(slots=True)
class Standing:
    """How a run stands, for the client's planner; lists are by position."""

    #: ``"done"``, ``"running"`` or ``"left"``.
    states: Sequence[str]
    #: Seconds, where anything is known.
    expected_s: Sequence[float | None]
    ranks: Sequence[float]
    #: ``{position: (node, seconds since it was placed)}``.
    running: Mapping[int, tuple[str, float]]
    #: ``{node: (capabilities, threads)}``.
    nodes: Mapping[str, tuple[Mapping[str, Any], int]]


@dataclass(slots=True)
class Outcome:
    """How a run ended, as the scheduler tells its client; lists are by position."""

    token: str
    status: str
    nodes: Sequence[str | None] = ()
    ready: Sequence[float | None] = ()
    placed: Sequence[float | None] = ()
    start: Sequence[float | None] = ()
    stop: Sequence[float | None] = ()
    attempts: Sequence[int] = ()
    causes: Sequence[str] = ()
    nbytes: Sequence[int | None] = ()
    #: Processor seconds, megabytes, and whether these are exact.
    used: Sequence[Sequence[Any] | None] = ()
    #: Seconds that the arguments took to the node.
    transfers: Sequence[float | None] = ()
    states: Sequence[str] = ()
    #: ``{node: capabilities}``.
    capabilities: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    submitted: float = 0.0
    ended: float | None = None
    #: The functions that have failed, the first to fail first: ``(position, why it could not be placed)``,
    #: ``({node: why not}, what else)`` if that is how it failed.  Their exceptions come beside this.
    failures: Sequence[tuple[int, tuple[dict[str, str], str | None] | None]] = ()
    #: ``{position: the costs that its attempts claimed in turn}`` of functions for which that has changed.
    claimed: Mapping[int, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    #: Of functions that failed for want of memory.
    shortages: Mapping[int, MemoryShortage] = field(default_factory=dict)
    #: ``{position: position of the failed function that it needed}``.
    skipped: Mapping[int, int] = field(default_factory=dict)
    #: Items of maps; see :attr:`~handoff_dask.protocol.manifest.Manifest.spawned`.
    spawned: Sequence[tuple[int, int, int]] = ()
    #: What functions printed and logged: ``(position, attempt, node, time, source, text)``.
    logs: Sequence[tuple[int, int, str, float, str, str]] = ()
