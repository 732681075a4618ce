"""What must be done: the orders that the engine gives a driver."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from handoff_dask.placement.demand import DataKey, FunctionKey, GroupKey, RunKey
from handoff_dask.placement.explanation import Obstacle


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Run this function on this node, now; its cost is booked there."""

    function: FunctionKey
    node: str
    #: Nodes that had room for it.
    candidates: int
    #: Seconds since it was ready.
    waited_s: float
    #: What it waited for, in a word (``""``: nothing): ``"room"``, ``"thread"``, ``"pin"``, …
    cause: str = ""
    #: What holds it back on the node if it is prefetched, or may have others prefetched behind it:
    #: ``(number, slots)``.  Each function takes ``1 / slots`` of its number while it runs.
    prefetch_queue: tuple[int, int] | None = None
    #: Whether it is sent before there is room, behind a function whose claim it takes over.
    prefetched: bool = False
    #: Bytes of its arguments that have to move there: neither there nor on their way.
    transfer_bytes: int = 0
    #: Indices of the node's devices that it gets, if its cost names any.
    devices: tuple[int, ...] = ()
    #: ``(group, node)``: of the group that it binds, whoever bound it first; or else of its own
    #: group, if that has been given its node (this one) because of it.
    bound: tuple[GroupKey, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Leave this function where it is; told once, when it starts to wait."""

    function: FunctionKey
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """This function can never run: fail its run."""

    function: FunctionKey
    run: RunKey
    #: ``{node: why not}``.
    obstacles: Mapping[str, Obstacle]
    #: What a strategy did wrong, if that is why.
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveData:
    """Copy data to a node, ahead of a function that is going to run there."""

    #: The function that will take it.
    function: FunctionKey
    node: str
    data: tuple[DataKey, ...]


Decision: TypeAlias = Place | Wait | Reject | MoveData
