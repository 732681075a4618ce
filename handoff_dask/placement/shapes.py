"""Shapes: what functions of one cost have in common, and the nodes that have room for them.

A shape is tested, not a function: thousands of functions of one cost share one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from heapq import heapify, heappop, heappush, heapreplace
from typing import TYPE_CHECKING

from handoff_dask.placement.ledger import THREAD, Amounts, ChangeLog, Node, amounts_of
from handoff_dask.resources import Capabilities, Cost

if TYPE_CHECKING:
    from handoff_dask.placement.collocation import Group
    from handoff_dask.placement.ledger import Ledger
    from handoff_dask.placement.queues import Queue
    from handoff_dask.placement.strategies import Score, ScoredStrategy

#: Up to how many nodes are counted one by one when a placement reports how many had room.
_COUNTED = 16


class Confinement:
    """The nodes that a run may use, and how much of each."""

    def __init__(self, nodes: Mapping[str, Capabilities]) -> None:
        #: ``{name or address: the most it may use there}``.
        self.nodes = dict(nodes)
        #: ``{node name: {resource: units the run holds there}}``; empty once it holds nothing.
        self.used: dict[str, dict[str, int]] = {}

    def limit(self, node: Node) -> Capabilities | None:
        """What the run may use of a node; None if it must not go there."""
        found = self.nodes.get(node.name)
        return found if found is not None or node.address is None else self.nodes.get(node.address)

    def capabilities(self, node: Node) -> Capabilities | None:
        """What the node is to this run."""
        limit = self.limit(node)
        return None if limit is None else node.capabilities.confined(limit)

    def has_room(self, node: Node, amounts: Amounts) -> bool:
        """Whether the run may take that much more there."""
        limit = self.limit(node)
        if limit is None:
            return False
        used = self.used.get(node.name, {})
        return all(used.get(n, 0) + u <= limit.amounts.get(n, used.get(n, 0) + u) for n, u in amounts)

    def count(self, node: Node, amounts: Amounts) -> int:
        """How many times the run may take that much more there."""
        limit, used = self.limit(node), self.used.get(node.name, {})
        assert limit is not None
        bounded = [(limit.amounts[n] - used.get(n, 0)) // u for n, u in amounts if n in limit.amounts]
        return min(bounded, default=node.total[THREAD])

    def take(self, node: Node, amounts: Amounts) -> None:
        """Note that the run took something."""
        used = self.used.setdefault(node.name, {})
        for name, units in amounts:
            used[name] = used.get(name, 0) + units

    def give_back(self, node: Node, amounts: Amounts) -> None:
        """Note that the run gave something back."""
        used = self.used.get(node.name, {})
        for name, units in amounts:
            used[name] -= units
        if not any(used.values()):
            self.used.pop(node.name, None)


class Shape:
    """A cost, and what the node must be able to hold when idle (more, for collocated functions)."""

    __slots__ = (
        "amounts",
        "asked",
        "confinement",
        "cost",
        "groups",
        "hold",
        "holders",
        "orders",
        "queues",
        "wanted",
    )

    def __init__(self, cost: Cost, hold: Cost | None = None, confinement: Confinement | None = None) -> None:
        self.cost = cost
        self.hold = cost if hold is None else hold
        self.confinement = confinement
        self.amounts = amounts_of(cost)
        #: The same as a mapping.
        self.asked = dict(self.amounts)
        #: Names of everything that is asked for, labels included.
        self.wanted = frozenset([*self.asked, *(n for n, _ in cost.labels)])
        #: Nodes that could hold it when idle, those being restarted included.
        self.holders: dict[str, Node] = {}
        #: ``{strategy: its order of the nodes with room}``.
        self.orders: dict[ScoredStrategy, NodeOrder] = {}
        #: The queues of functions of this shape.
        self.queues: dict[Queue, None] = {}
        #: Groups that ask for it as a whole.
        self.groups: dict[Group, None] = {}

    def could_hold(self, node: Node) -> bool:
        """Whether an idle node would do."""
        if node.total[THREAD] < 1:
            return False
        if self.confinement is None:
            return node.capabilities.could_hold(self.hold)
        confined = self.confinement.capabilities(node)
        return confined is not None and confined.could_hold(self.hold)

    def fits(self, node: Node) -> bool:
        """Whether one function more has room there now, on a node that could hold it."""
        offer = node.offer
        for name, units in self.amounts:
            if offer.get(name, 0) < units:
                return False
        return self.confinement is None or self.confinement.has_room(node, self.amounts)

    def unasked(self, node: Node) -> int:
        """How many kinds of things the node has that are not asked for."""
        return len(node.scarce - self.wanted)

    def review(self, node: Node, gone: bool = False) -> bool:
        """Look again at whether a node could hold it; True if it no longer can but could."""
        if not gone and self.could_hold(node):
            self.holders[node.name] = node
            return False
        return self.holders.pop(node.name, None) is not None

    def count_fitting(self, order: NodeOrder | None = None) -> int:
        """How many nodes have room; with many nodes, an upper bound of it."""
        if order is None or len(self.holders) <= _COUNTED:
            return sum(map(self.fits, self.holders.values()))
        return min(len(order), len(self.holders))

    def take(self, ledger: Ledger, node: Node) -> None:
        """Book one function there."""
        ledger.take(node, self.amounts)
        if self.confinement is not None:
            self.confinement.take(node, self.amounts)

    def give_back(self, ledger: Ledger, node: Node) -> None:
        """Return one function's claim."""
        if self.confinement is not None:
            self.confinement.give_back(node, self.amounts)
        ledger.give_back(node, self.amounts)


class NodeOrder:
    """The nodes with room for one shape, best first by one strategy.

    A heap that is mended only when looked at.  An entry is true while the node's version is the
    one it was made for.  Changes that can lower a score (bring a node forward) are read from
    the ledger's log; an entry whose score can only have risen is scored again when it comes up.
    So neither a placement nor a return costs anything per shape, and a look costs the changes
    since the last one.
    """

    __slots__ = ("_heap", "_log", "_place", "_score", "_seen", "_shape")

    def __init__(self, shape: Shape, strategy: ScoredStrategy, ledger: Ledger) -> None:
        self._shape = shape
        self._score: Callable[[Node, Shape], Score] = strategy.score
        self._log: ChangeLog = ledger.changes if strategy.falls_with_use else ledger.gains
        self._heap: list[tuple[Score, str, int, Node]] = []
        #: ``{node: the version it was last entered with}``: never two entries of one version.
        self._seen: dict[str, int] = {}
        self._place = -1

    def __len__(self) -> int:
        return len(self._heap)

    def best(self, barred: Collection[str] = ()) -> Node | None:
        """The best node with room, leaving out the barred ones."""
        self._catch_up()
        set_aside = []
        found = None
        while (top := self._top()) is not None:
            if top[1] not in barred:
                found = top[3]
                break
            set_aside.append(heappop(self._heap))
        for entry in set_aside:
            heappush(self._heap, entry)
        return found

    def _top(self) -> tuple[Score, str, int, Node] | None:
        heap, seen, shape = self._heap, self._seen, self._shape
        while heap:
            entry = heap[0]
            node = entry[3]
            if entry[2] == node.version:
                return entry
            current = shape.holders.get(node.name) is node and seen.get(node.name) != node.version
            if current and shape.fits(node):
                seen[node.name] = node.version
                heapreplace(heap, (self._score(node, shape), node.name, node.version, node))
            else:
                heappop(heap)
        return None

    def _catch_up(self) -> None:
        place, self._place = self._place, self._log.end
        if place == self._place:
            return
        changed = self._log.since(place) if place >= 0 else None
        if changed is None or len(self._heap) > 2 * len(self._shape.holders) + 64:
            self._heap, self._seen = [], {}
            self._enter(self._shape.holders.values(), self._heap.append)
            heapify(self._heap)
        else:
            heap = self._heap
            self._enter(changed, lambda entry: heappush(heap, entry))

    def _enter(self, nodes: Iterable[Node], add: Callable[[tuple[Score, str, int, Node]], None]) -> None:
        shape, seen, score = self._shape, self._seen, self._score
        fits, holders = shape.fits, shape.holders
        for node in nodes:
            name, version = node.name, node.version
            if seen.get(name) != version and name in holders and fits(node):
                seen[name] = version
                add((score(node, shape), name, version, node))
