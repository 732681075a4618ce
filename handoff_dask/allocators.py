"""Allocation strategies as users name and write them, and a plain allocator of nodes to functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

from handoff_dask.errors import ValidationError
from handoff_dask.graph.check import explain_unplaceable
from handoff_dask.graph.dag import DAG, as_dag
from handoff_dask.graph.functions import Function, FunctionId
from handoff_dask.placement.ledger import Ledger, Node
from handoff_dask.placement.requests import ResourceRequest
from handoff_dask.placement.strategies import BUILT_IN, NodeSnapshot
from handoff_dask.placement.to_come import ToCome
from handoff_dask.resources import NOTHING, Capabilities, Cost

__all__ = ["Allocator", "Selector", "SimpleAllocator", "Strategy", "StrategyName"]

# Capabilities say nothing of threads.  So many that they never run out; as the share of them that
# is taken is tiny, they only decide between nodes that are otherwise equally loaded.
_THREADS = 10**9


#: The strategies that are built in.
StrategyName: TypeAlias = Literal["first_available", "load_balanced", "cost_optimized", "fastest"]


@runtime_checkable
class Selector(Protocol):
    """A strategy that chooses a node for each function when it is ready."""

    def select(self, function: Function, nodes: list[NodeSnapshot], /) -> str | None:
        """The name of one of these nodes, which have room now; ``None`` to be asked again later."""


@runtime_checkable
class Allocator(Protocol):
    """A strategy that gives functions their nodes, asked once per DAG."""

    def allocate(
        self, functions: list[Function], capabilities: Mapping[str, Mapping[str, Any]], /
    ) -> Mapping[FunctionId, str]:
        """``{function id: node name}``; what is left out is placed by ``"first_available"``."""


#: What ``allocation_strategy=`` and ``allocator=`` take: a name, an object with ``select`` or ``allocate``,
#: the class of one, or a callable with the arguments of ``select``.
Strategy: TypeAlias = (
    StrategyName | Selector | Allocator | Callable[[Function, list[NodeSnapshot]], "str | None"] | type[Any]
)


@dataclass(frozen=True, slots=True)
class SimpleAllocator:
    """The strategies that are built in, as a plain function of capabilities.

    Parameters
    ----------
    strategy
        ``"first_available"``, ``"load_balanced"``, ``"cost_optimized"`` or ``"fastest"``.

    Raises
    ------
    ValidationError
        If there is no such strategy.

    Examples
    --------
    >>> functions = [Function(key, [], int, cost={"cpu": 2}) for key in ("a", "b", "c")]
    >>> SimpleAllocator().allocate(functions, {"n1": {"cpu": 4}, "n2": {"cpu": 4}})
    {'a': 'n1', 'b': 'n1', 'c': 'n2'}
    >>> SimpleAllocator("load_balanced").allocate(functions, {"n1": {"cpu": 4}, "n2": {"cpu": 4}})
    {'a': 'n1', 'b': 'n2', 'c': 'n1'}
    """

    strategy: StrategyName = "first_available"

    def __post_init__(self) -> None:
        given: Any = self.strategy
        if not isinstance(given, str) or given not in BUILT_IN:
            raise ValidationError(
                f"there is no allocation strategy {self.strategy!r}; the strategies are {', '.join(BUILT_IN)}"
            )

    def allocate(
        self, functions: DAG | Iterable[Function], capabilities: Mapping[str, Mapping[str, Any]]
    ) -> dict[FunctionId, str]:
        """Give each function a node, in their order; each takes from its node what it costs.

        When no node has room left, a function gets the first node that could hold it when idle.
        Pins and collocation are heeded.  Inputs and inline functions get none.

        Parameters
        ----------
        functions
            A DAG or a list of functions; what they take need not be among them.
        capabilities
            ``{node name: what it has}``.

        Returns
        -------
        dict
            ``{function id: node name}``.

        Raises
        ------
        AllocationError
            If no node could hold a function, or all that must share its node.
        ValidationError
            If two functions have one id, a collocation leads nowhere, or a capability is wrong.
        """
        dag = as_dag(functions)
        if not isinstance(capabilities, Mapping):
            raise ValidationError(
                f"capabilities: {capabilities!r} is no mapping from node name to capabilities"
            )
        offers = {str(name): Capabilities.parse(offer) for name, offer in capabilities.items()}
        return _Allocation(dag, offers, self.strategy).run()


class _Allocation:
    """One allocation in the making."""

    def __init__(self, dag: DAG, offers: Mapping[str, Capabilities], strategy: str) -> None:
        self.dag = dag
        self.offers = offers
        self.strategy = BUILT_IN[strategy]
        self.ledger = Ledger()
        self.nodes = [self.ledger.join(name, None, offers[name], _THREADS) for name in sorted(offers)]
        self.roots = dag.collocation_roots()
        self.group_costs: dict[FunctionId, Cost] = {}
        for key, root in self.roots.items():
            cost = self.group_costs.get(root, NOTHING)
            self.group_costs[root] = cost.union(dag.functions[key].needs)
        #: ``{root: the node its group has}``.
        self.homes: dict[FunctionId, Node] = {}
        self.requests: dict[tuple[Cost, Cost], ResourceRequest] = {}
        #: What those still to come ask for: a node that has it is spared by those that do not.
        self.to_come = ToCome(self.ledger)
        self.to_come.review(())
        self.to_come.opened(None, Counter(f.needs for f in dag.functions.values() if f.type == "regular"))

    def run(self) -> dict[FunctionId, str]:
        given: dict[FunctionId, str] = {}
        for function in self.dag.functions.values():
            if function.type == "regular":
                root = self.roots.get(function.id, function.id)
                request = self.request(function, root)
                self.to_come.waits(None, request, function.needs)
                node = self.homes.get(root) or self.choose(function, root)
                if root in self.roots:
                    self.homes[root] = node
                self.to_come.waits_no_more(request)
                self.ledger.take(node, request.amounts)
                given[function.id] = node.name
        return given

    def request(self, function: Function, root: FunctionId) -> ResourceRequest:
        """What it takes from its node, and what the node must be able to hold."""
        key = (function.needs, self.group_costs.get(root, function.needs))
        if key not in self.requests:
            self.requests[key] = ResourceRequest(*key, to_come=self.to_come)
        return self.requests[key]

    def choose(self, function: Function, root: FunctionId) -> Node:
        """The node with room that the strategy likes best, or the first that could hold it when idle."""
        request = self.request(function, root)
        pin = self.dag.functions[root].node
        able = [node for node in self.nodes if pin in (None, node.name) and request.could_hold(node)]
        if not able:
            whole = self.group_costs[root].to_dict() if root in self.group_costs else function.known_cost
            pinned = pin if isinstance(pin, str) else None
            raise explain_unplaceable(function.id, whole, self.offers, pin=pinned)
        with_room = [node for node in able if request.fits(node)]
        if not with_room:
            return able[0]
        return min(with_room, key=lambda node: (self.strategy.score(node, request), node.name))
