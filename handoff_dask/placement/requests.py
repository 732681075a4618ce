"""Resource requests: what functions of one cost ask for, and the nodes that are eligible.

A request is tested, not a function: thousands of functions of one cost share one.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Mapping
from dataclasses import replace
from typing import Protocol

from handoff_dask.placement.amounts import THREAD, Amounts, amounts_of
from handoff_dask.placement.devices import DEVICE
from handoff_dask.placement.ledger import Ledger, Node
from handoff_dask.placement.shared import SharedResource, SharedResources, Waiting
from handoff_dask.resources import Capabilities, Cost, undeclared


class Order(Protocol):
    """Nodes with room for a request, best first by one strategy."""

    def __len__(self) -> int:
        """How many nodes have room, or a few more."""

    def best(self, barred: Collection[str] = ()) -> Node | None:
        """The best node with room, leaving out the barred ones."""


class Sparing(Protocol):
    """What functions still to come ask for (see :mod:`handoff_dask.placement.to_come`)."""

    #: Names; the version changes with them.
    names: frozenset[str]
    version: int


class Confinement:
    """The nodes that a run may use, and how much of each."""

    def __init__(self, nodes: Mapping[str, Capabilities], ledger: Ledger | None = None) -> None:
        #: ``{name or address: the most it may use there}``.
        self.nodes = dict(nodes)
        #: Names that none of these nodes itself says anything of: the run alone knows and counts them.
        self.declared: frozenset[str] = frozenset() if ledger is None else self._declared(ledger)
        #: ``{node name: {resource: units the run holds there}}``; empty once it holds nothing.
        self.used: dict[str, dict[str, int]] = {}

    def _declared(self, ledger: Ledger) -> frozenset[str]:
        known = [n.capabilities for n in ledger.nodes.values() if self.limit(n) is not None]
        return undeclared(self.nodes.values(), known)

    def limit(self, node: Node) -> Capabilities | None:
        """What the run may use of a node; None if it must not go there."""
        found = self.nodes.get(node.name)
        return found if found is not None or node.address is None else self.nodes.get(node.address)

    def capabilities(self, node: Node) -> Capabilities | None:
        """What the node is to this run."""
        limit = self.limit(node)
        return None if limit is None else node.capabilities.confined(limit, self.declared)

    def has_room(self, node: Node, amounts: Amounts) -> bool:
        """Whether the run may take that much more there."""
        limit, used = self.limit(node), self.used.get(node.name, {})
        assert limit is not None
        return all(used.get(n, 0) + u <= limit.amounts.get(n, math.inf) for n, u in amounts)

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
        used = self.used[node.name]
        for name, units in amounts:
            used[name] -= units
        if not any(used.values()):
            del self.used[node.name]


class ResourceRequest:
    """A cost, and what the node must be able to hold when idle (more, for collocated functions)."""

    __slots__ = (
        "_of_node",
        "_spared",
        "_to_come",
        "able",
        "amounts",
        "asked",
        "avoid",
        "claims",
        "confined",
        "confinement",
        "cost",
        "devices",
        "eligible",
        "hold",
        "orders",
        "shared",
        "waiting",
        "wanted",
    )

    def __init__(
        self,
        cost: Cost,
        hold: Cost | None = None,
        confinement: Confinement | None = None,
        resources: SharedResources | None = None,
        to_come: Sparing | None = None,
        avoid: frozenset[str] = frozenset(),
    ) -> None:
        self.cost = cost
        self.hold = cost if hold is None else hold
        self.confinement = confinement
        self.split(SharedResources() if resources is None else resources)
        #: Names of everything that is asked for, labels included.
        self.wanted = frozenset([*self.asked, *(n for n, _ in cost.labels)])
        #: How many functions wait that ask for it.
        self.waiting = 0
        #: What others ask for that are still to come; and the part of it that is not asked for here,
        #: with the version of the first.
        self._to_come = to_come
        self._spared: tuple[int, frozenset[str]] = (-1, frozenset())
        #: Names of nodes that are eligible only where no other is.
        self.avoid = avoid
        #: Nodes that could hold it when idle, by name, those being restarted included.
        self.able: dict[str, Node] = {}
        #: Those of them that it may go to: the same mapping, unless it avoids some.
        self.eligible = self.able
        #: ``{strategy: its order of the nodes with room}``.
        self.orders: dict[Hashable, Order] = {}

    def split(self, resources: SharedResources) -> None:
        """Tell what is asked of a node from what is asked of shared resources."""
        #: What one function takes: of its node, and of shared resources.  Of a node, its run counts all
        #: (``confined``), and the ledger what the node itself offers (``amounts``).
        self.claims = amounts_of(self.cost)
        self.confined, self.shared = resources.split(self.claims)
        declared = frozenset() if self.confinement is None else self.confinement.declared
        self.amounts = tuple(pair for pair in self.confined if pair[0] not in declared)
        #: What the ledger counts, as a mapping.
        self.asked = dict(self.amounts)
        #: Units of devices among these.
        self.devices = self.asked.get(DEVICE, 0)
        held, _ = resources.split(self.hold.amounts)
        self._of_node = self.hold if len(held) == len(self.hold.amounts) else replace(self.hold, amounts=held)

    def short_of(self, queue: Waiting) -> SharedResource | None:
        """The first shared resource of which too little is left for one function more of a queue."""
        return next((resource for resource, units in self.shared if not resource.admits(queue, units)), None)

    def could_hold(self, node: Node) -> bool:
        """Whether an idle node would do, while nobody else held anything of shared resources."""
        if node.total[THREAD] < 1 or any(units > resource.total for resource, units in self.shared):
            return False
        if self.confinement is None:
            return node.capabilities.could_hold(self._of_node)
        confined = self.confinement.capabilities(node)
        return confined is not None and confined.could_hold(self._of_node)

    def fits(self, node: Node) -> bool:
        """Whether one function more has room there now, on a node that could hold it."""
        offer = node.offer
        for name, units in self.amounts:
            if offer.get(name, 0) < units:
                return False
        if self.devices and not node.devices.fit(self.devices):
            return False
        return self.confinement is None or self.confinement.has_room(node, self.confined)

    def unasked(self, node: Node) -> int:
        """How many kinds of things the node has that are not asked for."""
        return len(node.scarce - self.wanted)

    def spares(self, node: Node) -> bool:
        """Whether the node has something that functions still to come ask for, and this one does not."""
        if self._to_come is None or not self._to_come.names:
            return False
        version, names = self._spared
        if version != self._to_come.version:
            names = self._to_come.names - self.wanted
            self._spared = (self._to_come.version, names)
        return bool(names) and not names.isdisjoint(node.scarce)

    @property
    def sparing_version(self) -> int:
        """Changes whenever other nodes may have to be spared."""
        return 0 if self._to_come is None else self._to_come.version

    def review(self, node: Node, gone: bool = False) -> bool:
        """Look again at whether a node could hold it; True if it no longer can but could."""
        before = self.eligible
        was_eligible = node.name in before
        if not gone and self.could_hold(node):
            self.able[node.name] = node
        else:
            self.able.pop(node.name, None)
        if self.avoid:
            rest = {name: other for name, other in self.able.items() if name not in self.avoid}
            self.eligible = rest or dict(self.able)
            if self.eligible != before:
                self.orders.clear()  # they know of the nodes that were eligible
        return was_eligible and node.name not in self.eligible

    def count_fitting(self, few: int) -> int:
        """How many nodes have room; where more than a few are eligible, how many may have."""
        if len(self.eligible) <= few:
            return sum(map(self.fits, self.eligible.values()))
        return min((len(order) for order in self.orders.values()), default=len(self.eligible))

    def take(self, ledger: Ledger, node: Node, booked: Amounts | None = None) -> None:
        """Book one function there, or as yet a part of what it asks for."""
        ledger.take(node, self.amounts if booked is None else booked)
        if booked is None:
            ledger.shared.take(self.shared)
        if self.confinement is not None:
            self.confinement.take(node, self.confined)

    def give_back(self, ledger: Ledger, node: Node, booked: Amounts | None = None) -> None:
        """Return one function's claim, of which only a part may have been booked as yet."""
        if self.confinement is not None:
            self.confinement.give_back(node, self.confined)
        ledger.give_back(node, self.amounts if booked is None else booked)
        if booked is None:
            ledger.shared.give_back(self.shared)

    def fill(self, ledger: Ledger, node: Node) -> None:
        """Book what a claim asks for that has been there without anything."""
        ledger.fill(node, self.amounts)
        ledger.shared.take(self.shared)
