"""Why a function fits, or not, on each node: data first, words on demand."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

from handoff_dask.resources import Capabilities, amount_of, quantity

#: What stands between a function and a node; see :class:`Obstacle`.
CAUSES: Mapping[str, str] = {
    "amount": "the node has too little of a resource even when idle",
    "label": "the node lacks a label",
    "pin": "the function is pinned to another node",
    "collocation": "its group is on another node, or asks for more than the node has",
    "confined": "the execution may not use the node, or not as much of it",
    "returning": "the node is being restarted",
    "not accepting": "the node takes nothing new",
    "room": "others hold too much of a resource",
    "thread": "all threads are taken",
    "reservation": "the node is being cleared for a function that goes first, or has waited too long",
    "shared": "too little is left of a resource that the whole cluster shares",
    "max_concurrency": "the execution already runs as many functions as it may",
    "held back": "it would add to the data in memory, and what frees data waits for something scarce",
    "strategy": "the execution's strategy does not want the node now",
    "data": "its arguments are elsewhere, and waiting for room there takes less than moving them",
    "tracker": "the session's resource tracker refuses the node now, or other stages need its room",
    "failed there": "it has failed there, or the node is sick; another that could hold it comes first",
    "no nodes": "no node there is could ever hold it",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Obstacle:
    """Why one node does not take one function.

    Amounts are in units; ``str()`` gives them as users write them.

    Examples
    --------
    >>> str(Obstacle(cause="amount", resource="memory", needed=20_000_000_000, capability=16_000_000_000))
    'needs memory 20000 MB, has 16000 MB'
    """

    #: One of :data:`CAUSES`.
    cause: str
    #: The resource or label it is about; None if it is about none.
    resource: str | None = None
    #: Units the function asks for.
    needed: int = 0
    #: Units the node has.
    capability: int = 0
    #: Units that are free there now.
    free: int = 0
    #: Functions and foreign claims that hold the resource.
    holders: tuple[Hashable, ...] = ()
    #: What else there is to say.
    detail: str = ""
    #: Seconds to move the function's arguments to the node, and seconds that it is expected to wait for
    #: a node that has them (None if nobody knows), where the cause is ``"data"``.
    move_s: float = 0.0
    wait_s: float | None = None

    def __str__(self) -> str:
        needed, has, free = (
            quantity(self.resource or "", units)
            for units in (self.needed, self.capability, max(self.free, 0))
        )
        if self.cause == "amount":
            return f"needs {self.resource} {needed}, has {has}" + self._about()
        if self.cause == "room":
            return f"needs {self.resource} {needed}, {free} of {has} free" + self._about()
        if self.cause == "shared":
            return f"needs {self.resource} {needed}, {free} of the cluster's {has} free" + self._about()
        if self.cause == "thread":
            return f"all {self.capability} threads are taken"
        if self.cause == "data":
            until = "some time" if self.wait_s is None else f"{self.wait_s:.3g} s"
            return f"moving its arguments takes {self.move_s:.3g} s; {self.detail} in {until}"
        return self.detail or CAUSES[self.cause]

    def _about(self) -> str:
        return f" ({self.detail})" if self.detail else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Where a function stands, and why not elsewhere."""

    function: Hashable
    #: ``"waiting"``, ``"placed"`` or ``"unknown"``.
    status: str
    #: Its node, if it is placed.
    node: str | None = None
    #: Seconds it has waited, or did wait.
    waited_s: float = 0.0
    #: What it waits for, or waited for, in a word.
    cause: str = ""
    #: How many functions of the same demand wait before it.
    ahead: int = 0
    #: ``{node: what stands in the way there}``; None where it has room.
    nodes: Mapping[str, Obstacle | None] = field(default_factory=dict)

    def __str__(self) -> str:
        if self.status == "unknown":
            return f"{self.function!r} is not known here: it has not been ready, or has ended"
        if self.status == "placed":
            return f"{self.function!r} is on node {self.node!r}; it waited {self.waited_s:.3g} s"
        lines = [f"{self.function!r} has waited {self.waited_s:.3g} s ({self.cause or 'just now'})"]
        if self.ahead:
            lines.append(f"  {self.ahead} functions with the same demand go before it")
        lines += [f"  {node}: {'has room' if why is None else why}" for node, why in self.nodes.items()]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """What an open run holds of the cluster at one moment."""

    run: Hashable
    client: Hashable
    #: The largest fraction that it holds of anything the cluster has, threads included.
    share: float
    #: The same of all that its client holds.
    client_share: float
    #: What it may hold beside others, in proportion; and its priority.
    weight: float
    priority: float
    #: How many of its functions wait.
    waiting: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeState:
    """A node at one moment."""

    name: str
    address: str | None
    capabilities: Capabilities
    #: ``{resource: units that are held}``.
    used: Mapping[str, int]
    #: ``{resource: units that are free}``, below 0 where it is overdrawn.
    free: Mapping[str, int]
    threads: int
    threads_used: int
    #: Functions that are placed there, those sent ahead included.
    placed: tuple[Hashable, ...]
    #: Whether new functions may start there.
    accepting: bool
    #: Whether it is being restarted.
    returning: bool
    #: Per second.
    price: float
    #: The function for which it is being cleared.
    reserved_for: Hashable | None = None

    def available(self) -> dict[str, Any]:
        """What is free, as users write it; 0 where it is overdrawn."""
        return {name: amount_of(max(units, 0)) for name, units in self.free.items()}
