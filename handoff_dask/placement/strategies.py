"""Which node: the four strategies that are built in, and those that users write.

A built-in strategy is a way of scoring: of the nodes that have room, the one with the lowest
score is taken, the first in name order among equals.  A user's strategy is asked
(:class:`SelectStrategy`) or has been asked once (:class:`AllocateStrategy`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

from handoff_dask.placement.demand import FunctionKey, GroupKey
from handoff_dask.placement.ledger import Node
from handoff_dask.placement.requests import ResourceRequest

#: What nodes are compared by; lower is better.
Score: TypeAlias = Any


@dataclass(frozen=True)
class Strategy:
    """How a run wants its nodes chosen.  Equal strategies let runs share their queues."""

    #: What users and telemetry call it.
    name: str


@dataclass(frozen=True)
class ScoredStrategy(Strategy, ABC):
    """A strategy that compares nodes by a number or tuple, lower first."""

    #: Whether a node's score can fall when something is placed there.
    falls_with_use: ClassVar[bool] = False
    #: Whether it scores by :func:`load_after`, for which there is a shorter way.
    is_by_load: ClassVar[bool] = False
    #: Whether bringing the arguments there counts.
    heeds_transfer: ClassVar[bool] = False
    #: Whether a node's score depends on what functions still to come ask for.
    spares_nodes: ClassVar[bool] = False
    #: Whether names alone decide between equal nodes; else the one that has the arguments wins.
    is_by_name: ClassVar[bool] = False

    @abstractmethod
    def score(self, node: Node, request: ResourceRequest) -> Score:
        """How bad it would be to place a function with this request on the node."""


@dataclass(frozen=True)
class FirstAvailable(ScoredStrategy):
    """The first node in name order, names compared as strings.

    A node that has what functions still to come ask for, and this one does not, comes after the others.
    """

    spares_nodes: ClassVar[bool] = True
    is_by_name: ClassVar[bool] = True
    name: str = "first_available"

    def score(self, node: Node, request: ResourceRequest) -> Score:
        """Whether the node is spared; of equal nodes the name decides."""
        return request.spares(node)


@dataclass(frozen=True)
class LoadBalanced(ScoredStrategy):
    """The node whose most-used resource (threads are one) would stay lowest."""

    is_by_load: ClassVar[bool] = True
    name: str = "load_balanced"

    def score(self, node: Node, request: ResourceRequest) -> Score:
        """The largest used share there would be."""
        return load_after(node, request)


@dataclass(frozen=True)
class CostOptimized(ScoredStrategy):
    """The cheapest node, then the tightest fit.

    Tight means, in this order: it has few kinds of resources and labels that the function does
    not ask for (a node with a gpu is spared for those who need one); little is left over.
    """

    falls_with_use: ClassVar[bool] = True
    name: str = "cost_optimized"

    def score(self, node: Node, request: ResourceRequest) -> Score:
        """Price per second, kinds of things not asked for, shares left over."""
        free, asked = node.free, request.asked
        left = 0.0
        for name, total in node.shares:
            left += (free[name] - asked.get(name, 0)) / total
        return node.price, request.unasked(node), left


@dataclass(frozen=True)
class Fastest(ScoredStrategy):
    """The node where it would finish first, bringing its arguments there included.

    A function takes as long on one node as on another, as far as anybody knows, so what differs
    is the transfer; among equals the less loaded node is taken.
    """

    heeds_transfer: ClassVar[bool] = True
    is_by_load: ClassVar[bool] = True
    name: str = "fastest"

    def score(self, node: Node, request: ResourceRequest) -> Score:
        """The load there would be: what decides where the transfer does not."""
        return load_after(node, request)


def load_after(node: Node, request: ResourceRequest) -> float:
    """The share of the most-used resource of a node if a function with this request were there.

    Examples
    --------
    >>> from handoff_dask.placement.ledger import Ledger
    >>> from handoff_dask.placement.requests import ResourceRequest
    >>> from handoff_dask.resources import Capabilities, Cost
    >>> node = Ledger().join("a", None, Capabilities.parse({"cpu": 4, "memory": 100}), threads=8)
    >>> load_after(node, ResourceRequest(Cost.parse({"cpu": 1, "memory": 50})))
    0.5
    """
    free, asked = node.free, request.asked
    most = 0.0
    for name, total in node.shares:
        share = (total - free[name] + asked.get(name, 0)) / total
        if share > most:
            most = share
    return most


#: The strategies that have a name.
BUILT_IN: Mapping[str, ScoredStrategy] = {
    s.name: s for s in (FirstAvailable(), LoadBalanced(), CostOptimized(), Fastest())
}

FIRST_AVAILABLE = BUILT_IN["first_available"]


@dataclass(frozen=True, slots=True)
class NodeSnapshot:
    """A node as a user's strategy sees it."""

    name: str
    #: ``{resource: amount or label}`` as users write them.
    capabilities: Mapping[str, Any]
    #: ``{resource: amount}`` that is free now.
    available: Mapping[str, int | float]
    #: Per second.
    price: float
    #: How many functions run there.
    running: int


@dataclass(frozen=True, eq=False)
class SelectStrategy(Strategy):
    """A user's strategy that is asked for each function when nodes have room for it."""

    name: str = "select"
    #: ``select(what describe gave, snapshots of the nodes with room in name order)``: the name
    #: of one of them, or None for later.
    select: Callable[[Any, Sequence[NodeSnapshot]], str | None] = field(kw_only=True)
    #: Turns the engine's key of a function (or of a group that needs a node) into what the user
    #: is shown.
    describe: Callable[[FunctionKey | GroupKey], Any] = field(default=lambda key: key, kw_only=True)


@dataclass(frozen=True, eq=False)
class AllocateStrategy(Strategy):
    """A user's strategy that is asked once, when the run opens.

    A function that it gives a node waits for that node; the others go by first_available.
    """

    name: str = "allocate"
    #: ``assign({node: capabilities as users write them})``: ``{function: node}``.
    assign: Callable[[Mapping[str, Mapping[str, Any]]], Mapping[FunctionKey, str]] = field(kw_only=True)
    #: Turns the engine's key of a function into the id by which the user knows it.
    id_of: Callable[[FunctionKey], Any] = field(default=lambda key: key, kw_only=True)
