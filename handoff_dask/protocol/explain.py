"""Where a function stands and what is in its way, as the scheduler tells its client.

Functions are named by run and position; the client puts the ids in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from handoff_dask.placement.explanation import Obstacle
from handoff_dask.protocol.telemetry import Introduction
from handoff_dask.record.pipeline import PipelineFigures


class Party(NamedTuple):
    """Somebody on the cluster."""

    #: ``"function"``, ``"thread"``, ``"client"`` or ``"task"``.
    kind: str
    run: str | None = None
    position: int | None = None
    name: str = ""


class Hindrance(NamedTuple):
    """What the engine says is in the way on a node, with those who hold it named."""

    obstacle: Obstacle
    parties: tuple[Party, ...]


@dataclass(slots=True, kw_only=True)
class Finding:
    """Where a function stands."""

    token: str
    status: str
    node: str | None = None
    attempts: int = 0
    cause: str = ""
    waited_s: float | None = None
    candidates: int | None = None
    sent_ahead: bool = False
    ahead: int = 0
    #: While it waits and there are rivals: the largest fractions of anything the cluster has that its run and
    #: its client hold, and how many other runs wait.
    shares: tuple[float, float, int] | None = None
    #: Arguments that are missing: who, its status, its node.
    arguments: list[tuple[Party, str, str | None]] = field(default_factory=list)
    nodes: Mapping[str, Hindrance | None] = field(default_factory=dict)
    problem: str | None = None
    #: Position of the function because of which it was cancelled.
    because: int | None = None
    #: How its pipeline stands, if the run is one.
    pipeline: PipelineFigures | None = None
    #: Of all runs that are spoken of.
    introductions: list[Introduction] = field(default_factory=list)
