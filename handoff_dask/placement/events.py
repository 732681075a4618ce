"""What has happened: the facts that a driver tells the engine.

Times are never part of a fact; they arrive beside it, as ``now``.  Names are the driver's: the
engine compares and hashes them and looks no further.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from handoff_dask.placement.demand import (
    ClaimKey,
    DataArgument,
    DataKey,
    Demand,
    FunctionKey,
    GroupKey,
    RunKey,
)
from handoff_dask.placement.strategies import Strategy
from handoff_dask.resources import NOTHING, Capabilities, Cost

__all__ = [
    "ArgumentReady",
    "ClaimKey",
    "ClaimedElsewhere",
    "DataArgument",
    "DataKey",
    "Demand",
    "DurationsLearned",
    "Event",
    "FunctionFinished",
    "FunctionKey",
    "FunctionReady",
    "FunctionWithdrawn",
    "GroupKey",
    "NetworkMeasured",
    "NodeChanged",
    "NodeJoined",
    "NodeLeft",
    "NodeMemory",
    "OutsideWaits",
    "RoundTripMeasured",
    "PermissionsChanged",
    "ReturnedElsewhere",
    "RunClosed",
    "RunKey",
    "RunOpened",
    "RunRanked",
    "SharedRegistered",
    "TimePassed",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeJoined:
    """A node may be used from now on."""

    node: str
    capabilities: Capabilities
    #: Functions that run at once there, whatever they cost.
    threads: int
    #: Another name by which a pin may call it.
    address: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLeft:
    """A node is gone with all that ran there.

    With ``returning``, somebody is restarting it: what can only run there waits for it, as for
    a busy node, until it joins again or leaves for good.
    """

    node: str
    returning: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeChanged:
    """A node offers more or less than before, or stops (resumes) taking new functions."""

    node: str
    capabilities: Capabilities
    threads: int
    accepting: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedRegistered:
    """The cluster has so much of a shared resource from now on; no node, and no run, declares its name."""

    name: str
    #: Units.
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedElsewhere:
    """Something that is not ours holds part of a node; the node may be overdrawn by it."""

    claim: ClaimKey
    node: str
    cost: Cost = NOTHING
    threads: int = 0
    #: Indices of the node's devices that it has already.
    devices: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReturnedElsewhere:
    """What was claimed under this key is free again."""

    claim: ClaimKey


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOpened:
    """A DAG is going to be executed."""

    run: RunKey
    strategy: Strategy
    #: Whose it is: what becomes free is shared between clients first.
    client: Hashable = None
    #: Of the whole run: larger goes before smaller, whatever the priorities of functions.
    priority: float = 0
    #: What the run may hold beside others of equal priority, in proportion.
    share: float = 1.0
    #: Why nothing of it may run: every function of it is rejected for that.
    problem: str | None = None
    #: Whether somebody else has sent its functions to their nodes, each to the one that it is pinned to,
    #: where it waits for room.  They count, and no decision is given of them.
    outside: bool = False
    #: Confines the run: ``{node: the most it may use there}``.
    nodes: Mapping[str, Capabilities] | None = None
    #: The most functions of this run that run at once.
    max_concurrency: int | None = None
    #: Seconds that a ready function may wait for a node that could hold it to exist.
    allocation_timeout_s: float = 0.0
    #: Whether it goes on when one of its functions is rejected.
    goes_on: bool = False
    #: ``{group: what its node must be able to hold}``.
    groups: Mapping[GroupKey, Demand] = field(default_factory=dict)
    #: ``{cost: how many of its functions have it}``, of all that it will ask for, as far as that is known.
    costs: Mapping[Cost, int] = field(default_factory=dict)
    #: Asked before each placement, and may refuse it: ``permit(function, node)``.  What is granted
    #: is placed.
    permit: Callable[[FunctionKey, str], bool] | None = None
    #: Asked of a function that is about to end: the largest rank among those that become ready
    #: then, 0 if none does, None if nobody knows.
    next_rank: Callable[[FunctionKey], float | None] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutsideWaits:
    """More functions of an outside run wait (or no more) for nodes that have been sent less."""

    run: RunKey
    waits: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRanked:
    """The order of a run's functions has been worked out anew."""

    run: RunKey
    #: ``{function: rank}``, for waiting functions and those still to come; larger goes earlier.
    ranks: Mapping[FunctionKey, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class DurationsLearned:
    """It has become known how long functions of a run take, after they became ready."""

    run: RunKey
    #: ``{function: expected seconds}``; functions that do not wait are passed over.
    durations: Mapping[FunctionKey, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunClosed:
    """A run is over or cancelled: what of it waits is dropped, what runs is not ended."""

    run: RunKey


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionReady:
    """Every argument of a function is available; it may be placed now."""

    function: FunctionKey
    run: RunKey
    demand: Demand
    #: The user's: larger goes earlier, before any rank.
    priority: float = 0
    #: Among equal priorities: larger goes earlier (seconds to the end of the DAG, as a rule).
    rank: float = 0.0
    #: Expected seconds, if anything is known.
    duration_s: float | None = None
    #: Whether that is known for sure: told by the user, or measured of this very function.
    certain: bool = False
    #: Where its large arguments are; none if moving all of them takes less than the transfer floor.
    arguments: tuple[DataArgument, ...] = ()
    #: Whether an argument can be dropped when it ends: nobody else waits for that.
    frees: bool = False
    #: Of an outside run: whether it has begun, if its node has room for it.
    begun: bool = False
    #: The node that has most of its arguments, if anybody knows: taken among equal nodes.
    preferred_node: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ArgumentReady:
    """A large argument of a function is available, of which others are still computed."""

    #: The function that waits for the others.
    function: FunctionKey
    run: RunKey
    demand: Demand
    argument: DataArgument
    #: How many arguments it takes.
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkMeasured:
    """It has become known how fast data moves between nodes; None leaves a value as it is."""

    #: Bytes per second between nodes of which nothing else is known.
    bandwidth: float | None = None
    #: Seconds that a move takes besides.
    latency_s: float | None = None
    #: ``{(source, target): bytes per second}``, replacing what was said of pairs before.
    pairs: Mapping[tuple[str, str], float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundTripMeasured:
    """It has become known how long a place is idle between two functions, as a rule."""

    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeMemory:
    """How full a node's memory is; told now and then."""

    node: str
    #: Bytes in use, and bytes that it may use.
    used: int
    limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionFinished:
    """A placed function has ended, well or not: what it held is free."""

    function: FunctionKey
    #: Seconds it ran, if it ended well: less than it was placed for, by the round trip.
    took_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionWithdrawn:
    """A function is not wanted any more.

    If it waits it is dropped.  If it is placed it keeps what it holds until it has finished.
    """

    function: FunctionKey


@dataclass(frozen=True, slots=True, kw_only=True)
class PermissionsChanged:
    """What was refused, or not wanted, before may be granted by now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimePassed:
    """Nothing happened, but what waits for a moment may be due."""


Event: TypeAlias = (
    NodeJoined
    | NodeLeft
    | NodeChanged
    | ClaimedElsewhere
    | ReturnedElsewhere
    | RunOpened
    | OutsideWaits
    | RunRanked
    | RunClosed
    | DurationsLearned
    | ArgumentReady
    | FunctionReady
    | FunctionFinished
    | FunctionWithdrawn
    | PermissionsChanged
    | NetworkMeasured
    | NodeMemory
    | SharedRegistered
    | RoundTripMeasured
    | TimePassed
)
