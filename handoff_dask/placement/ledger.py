"""What each node offers, what is held there, what is free: the one place where room is counted.

Units are integers (see :mod:`handoff_dask.resources`), so sums are exact.  Threads are counted
as one more resource (see :mod:`handoff_dask.placement.amounts`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from handoff_dask.placement.amounts import THREAD, Amounts, amounts_of
from handoff_dask.placement.demand import ClaimKey, FunctionKey
from handoff_dask.placement.devices import DEVICE, Devices
from handoff_dask.placement.prefetch_queue import PrefetchQueue
from handoff_dask.placement.shared import SharedAmounts, SharedResources
from handoff_dask.resources import Capabilities, Cost

__all__ = ["THREAD", "Amounts", "ChangeLog", "Ledger", "Node", "amounts_of"]

#: So many changes are kept in a log at most.
_REMEMBERED = 8192

_NOTHING_TO_OFFER: Mapping[str, int] = {}


class Node:
    """One node as the ledger sees it."""

    __slots__ = (
        "accepting",
        "address",
        "capabilities",
        "devices",
        "elsewhere",
        "followed",
        "free",
        "name",
        "offer",
        "placed",
        "prefetch_queues",
        "present",
        "price",
        "scarce",
        "shares",
        "total",
        "version",
        "waiting_here",
    )

    def __init__(self, name: str, address: str | None) -> None:
        self.name = name
        self.address = address
        self.capabilities = Capabilities()
        #: Units it has, by name, threads among them.
        self.total: dict[str, int] = {}
        #: Units nobody holds; below 0 where the node is overdrawn.
        self.free: dict[str, int] = {}
        #: ``free`` while the node may be used and holds no more than it has, else nothing.
        self.offer: Mapping[str, int] = _NOTHING_TO_OFFER
        self.accepting = True
        #: False while somebody restarts it.
        self.present = True
        self.price = 0.0
        #: ``((name, units it has), …)`` of what can be used up: what load is measured by.
        self.shares: Amounts = ()
        #: Names of what it has, resources and labels: the more, the more there is to spare it for.
        self.scarce: frozenset[str] = frozenset()
        #: Changes whenever its free room does; no two nodes ever share one.
        self.version = 0
        #: Functions that hold something here or have been prefetched, in the order of placement.
        self.placed: dict[FunctionKey, None] = {}
        #: Which of its devices are held.
        self.devices = Devices()
        #: What others hold here.
        self.elsewhere: dict[ClaimKey, Amounts] = {}
        #: Its prefetch queues by number, and the numbers of its timed prefetches.
        self.prefetch_queues: dict[int, PrefetchQueue] = {}
        self.followed: dict[int, None] = {}
        #: How many functions wait here to take over the room of one that is followed.
        self.waiting_here = 0

    def has_room(self, amounts: Amounts) -> bool:
        """Whether the amounts are free now and the node may be used."""
        offer = self.offer
        # Asked more often than anything else: a loop takes half the time of all().
        for name, units in amounts:  # noqa: SIM110
            if offer.get(name, 0) < units:
                return False
        return True

    def used(self) -> dict[str, int]:
        """Units that are held, by name, threads included."""
        return {name: self.total.get(name, 0) - free for name, free in self.free.items()}

    def measure(self, capabilities: Capabilities, threads: int) -> None:
        """Take over what it has now, keeping what is held."""
        used = self.used()
        self.capabilities = capabilities
        self.total = {THREAD: threads, **capabilities.amounts}
        self.free = {
            n: self.total.get(n, 0) - used.get(n, 0) for n in [*self.total, *(n for n in used if used[n])]
        }
        self.devices.measure(capabilities.amounts.get(DEVICE, 0))
        self.price = capabilities.price
        self.shares = tuple((n, u) for n, u in self.total.items() if u > 0 and n != "price")
        self.scarce = scarce_in(capabilities)
        self.open()

    def open(self) -> None:
        """Offer what is free, if the node may be used and is not overdrawn."""
        usable = self.present and self.accepting and not self.is_overdrawn()
        self.offer = self.free if usable else _NOTHING_TO_OFFER

    def is_overdrawn(self) -> bool:
        """Whether more of something is held than the node has."""
        return any(units < 0 for units in self.free.values())


def scarce_in(capabilities: Capabilities) -> frozenset[str]:
    """Names of what can be used up, and of labels."""
    amounts = (name for name, units in capabilities.amounts.items() if units > 0 and name != "price")
    return frozenset([*amounts, *(name for name, value in capabilities.labels.items() if value)])


class ChangeLog:
    """Nodes that changed, in order; readers keep their own place in it."""

    __slots__ = ("_nodes", "_start")

    def __init__(self) -> None:
        self._nodes: list[Node] = []
        self._start = 0

    def __len__(self) -> int:
        return len(self._nodes)

    @property
    def end(self) -> int:
        """The place behind the last change."""
        return self._start + len(self._nodes)

    def append(self, node: Node) -> None:
        """Note one more change; the older half is forgotten when there are too many."""
        nodes = self._nodes
        nodes.append(node)
        if len(nodes) > _REMEMBERED:
            del nodes[: _REMEMBERED // 2]
            self._start += _REMEMBERED // 2

    def since(self, place: int) -> list[Node] | None:
        """The nodes that changed since then; None if that is forgotten."""
        return self._nodes[place - self._start :] if place >= self._start else None

    def clear(self) -> None:
        """Forget all: nobody reads it."""
        self._start += len(self._nodes)
        self._nodes.clear()


class Ledger:
    """All nodes, and every claim on them."""

    def __init__(self) -> None:
        #: In the order in which they joined; nodes that are being restarted are among them.
        self.nodes: dict[str, Node] = {}
        self._by_address: dict[str, Node] = {}
        self._claims: dict[ClaimKey, Node] = {}
        #: What the whole cluster has, and what claims from elsewhere hold of it.
        self.shared = SharedResources()
        self._shared_elsewhere: dict[ClaimKey, SharedAmounts] = {}
        self._version = 0
        #: ``{resource: the most that any node has of it}``, as far as it has been asked.
        self._largest: dict[str, int] = {}
        #: ``{resource: what all nodes have of it}``, as far as it has been asked; how often that changed.
        self._totals: dict[str, int] = {}
        self.shape = 0
        #: Every change of a node's free room.
        self.changes = ChangeLog()
        #: Those that may have made room.
        self.gains = ChangeLog()
        #: Nodes that may have more room than when this was last emptied.
        self.freed: dict[str, Node] = {}
        #: How many claims there are, ours and others'.
        self.claims = 0

    def largest(self, resource: str) -> int:
        """The most that any node has of a resource, in units."""
        found = self._largest.get(resource)
        if found is None:
            found = max((node.total.get(resource, 0) for node in self.nodes.values()), default=0)
            self._largest[resource] = found
        return found

    def totals(self) -> dict[str, int]:
        """What all nodes that are there have, and what they share, in units, by name, threads included."""
        if not self._totals:
            for node in self.nodes.values():
                if node.present:
                    for name, units in node.total.items():
                        self._totals[name] = self._totals.get(name, 0) + units
            self._totals.update({resource.name: resource.total for resource in self.shared.by_name.values()})
        return self._totals

    def register_shared(self, name: str, total: int) -> bool:
        """Take over how much there is of a shared resource; whether the name is new."""
        self._totals.clear()
        self.shape += 1
        return self.shared.set(name, total)

    def find(self, name: str) -> Node | None:
        """The node of that name or address."""
        return self.nodes.get(name) or self._by_address.get(name)

    def join(self, name: str, address: str | None, capabilities: Capabilities, threads: int) -> Node:
        """Add a node; there is none of that name."""
        node = Node(name, address)
        self.nodes[name] = node
        if address is not None:
            self._by_address[address] = node
        node.measure(capabilities, threads)
        self.touch(node, gain=True)
        return node

    def change(self, node: Node, capabilities: Capabilities, threads: int, accepting: bool) -> None:
        """Take over what a node has from now on; what is held there stays held."""
        node.accepting = accepting
        node.measure(capabilities, threads)
        self.touch(node, gain=True)

    def empty(self, node: Node, returning: bool) -> None:
        """Forget every claim on a node that is gone; keep its place if it comes back."""
        for claim in node.elsewhere:
            del self._claims[claim]
            self.shared.give_back(self._shared_elsewhere.pop(claim, ()))
        self.claims -= len(node.elsewhere)
        node.elsewhere.clear()
        node.placed.clear()
        node.prefetch_queues.clear()
        node.followed.clear()
        node.waiting_here = 0
        node.free = dict(node.total)
        node.devices.clear()
        node.present = False
        node.open()
        self.touch(node, gain=False)
        self.freed.pop(node.name, None)
        if not returning:
            del self.nodes[node.name]
            if node.address is not None and self._by_address.get(node.address) is node:
                del self._by_address[node.address]

    def take(self, node: Node, amounts: Amounts) -> None:
        """Book one claim; whether there is room is the caller's concern."""
        free = node.free
        for name, units in amounts:
            free[name] = free.get(name, 0) - units
        self.claims += 1
        self._version = node.version = self._version + 1
        self.changes.append(node)

    def fill(self, node: Node, amounts: Amounts) -> None:
        """Book the amounts of a claim that has been there without any."""
        free = node.free
        for name, units in amounts:
            free[name] = free.get(name, 0) - units
        self._version = node.version = self._version + 1
        self.changes.append(node)
        # It may have shrunk in the meantime.
        node.open()

    def give_back(self, node: Node, amounts: Amounts) -> None:
        """Return one claim."""
        free = node.free
        for name, units in amounts:
            free[name] += units
        if node.offer is not free:
            node.open()
        self.claims -= 1
        self._version = node.version = self._version + 1
        self.changes.append(node)
        self.gains.append(node)
        self.freed[node.name] = node

    def claim_elsewhere(
        self, claim: ClaimKey, node: Node, cost: Cost, threads: int, devices: Sequence[int] = ()
    ) -> None:
        """Book what somebody else holds, whether or not there is room; of these devices, if it has any."""
        self.return_elsewhere(claim)
        amounts, shared = self.shared.split(amounts_of(cost, threads))
        if shared:
            self._shared_elsewhere[claim] = shared
            self.shared.take(shared)
        units = dict(amounts).get(DEVICE, 0)
        if units:
            node.devices.take(("elsewhere", claim), units, devices)
        node.elsewhere[claim] = amounts
        self._claims[claim] = node
        self.take(node, amounts)
        node.open()

    def return_elsewhere(self, claim: ClaimKey) -> None:
        """Return what was claimed under this key, if anything was."""
        node = self._claims.pop(claim, None)
        if node is not None:
            self.shared.give_back(self._shared_elsewhere.pop(claim, ()))
            node.devices.give_back(("elsewhere", claim))
            self.give_back(node, node.elsewhere.pop(claim))

    def touch(self, node: Node, *, gain: bool) -> None:
        """Note that a node is not what it was."""
        self._largest.clear()
        self._totals.clear()
        self.shape += 1
        self._version = node.version = self._version + 1
        self.changes.append(node)
        if gain:
            self.gains.append(node)
            self.freed[node.name] = node

    def forget_changes(self) -> None:
        """Drop the logs: nobody reads them."""
        self.changes.clear()
        self.gains.clear()

    def check(
        self,
        booked: Callable[[Node], Sequence[Amounts]],
        shared: Iterable[SharedAmounts],
        holders: Callable[[Node], set[FunctionKey]],
    ) -> None:
        """Assert that what is left of every node, and of shared resources, is what the claims leave.

        ``booked`` gives what is booked for the functions placed on a node, a claim each, and ``shared``
        what these hold of shared resources; ``holders`` gives those that hold devices of a node.
        """
        self.shared.check([*self._shared_elsewhere.values(), *shared])
        held = 0
        for node in self.nodes.values():
            left = dict(node.total)
            for amounts in [*node.elsewhere.values(), *booked(node)]:
                held += 1
                for name, units in amounts:
                    left[name] = left.get(name, 0) - units
            names = {*left, *node.free}
            assert all(left.get(n, 0) == node.free.get(n, 0) for n in names), (node.name, left, node.free)
            usable = node.present and node.accepting and min(node.free.values()) >= 0
            assert node.offer is (node.free if usable else _NOTHING_TO_OFFER)
            assert node.present or not node.placed
            others = {("elsewhere", c) for c, amounts in node.elsewhere.items() if dict(amounts).get(DEVICE)}
            node.devices.check(others | holders(node))
        assert held == self.claims, (held, self.claims)
        assert all(claim in node.elsewhere for claim, node in self._claims.items())
