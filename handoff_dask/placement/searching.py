"""Finding the best node among many without looking at each."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from heapq import heapify, heappop, heappush, heapreplace
from typing import TypeAlias

from handoff_dask.placement.ledger import Ledger, Node
from handoff_dask.placement.requests import ResourceRequest
from handoff_dask.placement.strategies import Score, ScoredStrategy, load_after

#: ``(score, name, the node's version when it was scored, node)``.
Entry: TypeAlias = tuple[Score, str, int, Node]


class NodeOrder:
    """The nodes with room for one resource request, best first by one strategy.

    A heap that is mended only when looked at.  An entry is true while the node's version is the
    one it was made for.  Changes that can lower a score (bring a node forward) are read from
    the ledger's log; an entry whose score can only have risen is scored again when it comes up.
    So neither a placement nor a return costs anything per request, and a look costs the changes
    since the last one.
    """

    __slots__ = ("_heap", "_log", "_place", "_request", "_score", "_seen", "_spares", "_spares_version")

    def __init__(self, request: ResourceRequest, strategy: ScoredStrategy, ledger: Ledger) -> None:
        self._request = request
        self._score = strategy.score
        self._log = ledger.changes if strategy.falls_with_use else ledger.gains
        self._heap: list[Entry] = []
        #: ``{node: the version it was last entered with}``: never two entries of one version.
        self._seen: dict[str, int] = {}
        self._place = -1
        #: Whether scores depend on what functions still to come ask for, and the version they were made for.
        self._spares = strategy.spares_nodes
        self._spares_version = 0

    def __len__(self) -> int:
        return len(self._heap)

    def best(self, barred: Collection[str] = ()) -> Node | None:
        """The best node with room, leaving out the barred ones."""
        entry = self.first()
        if entry is not None and entry[1] in barred:
            entry = self.look(lambda entry: entry[1] not in barred)
        return None if entry is None else entry[3]

    def first(self) -> Entry | None:
        """The entry of the best node with room."""
        self._catch_up()
        return self._top()

    def look(self, found: Callable[[Entry], bool]) -> Entry | None:
        """Go through the nodes with room, best first, until one is found."""
        self._catch_up()
        seen = []
        while (top := self._top()) is not None and not found(top):
            seen.append(heappop(self._heap))
        for entry in seen:
            heappush(self._heap, entry)
        return top

    def _top(self) -> Entry | None:
        heap, seen, request = self._heap, self._seen, self._request
        while heap:
            entry = heap[0]
            node = entry[3]
            if entry[2] == node.version:
                return entry
            current = request.eligible.get(node.name) is node and seen.get(node.name) != node.version
            if current and request.fits(node):
                seen[node.name] = node.version
                heapreplace(heap, (self._score(node, request), node.name, node.version, node))
            else:
                heappop(heap)
        return None

    def _catch_up(self) -> None:
        place, self._place = self._place, self._log.end
        is_outdated = self._spares and self._spares_version != self._request.sparing_version
        if is_outdated:
            self._spares_version = self._request.sparing_version
        elif place == self._place:
            return
        eligible = self._request.eligible
        # A log that is longer than the list of nodes is not worth reading.
        changed = self._log.since(place) if place >= self._place - 2 * len(eligible) else None
        if is_outdated or changed is None or len(self._heap) > 2 * len(eligible) + 64:
            self._heap, self._seen = [], {}
            self._enter(eligible.values(), self._heap.append)
            heapify(self._heap)
        else:
            heap = self._heap
            self._enter(changed, lambda entry: heappush(heap, entry))

    def _enter(self, nodes: Iterable[Node], add: Callable[[Entry], None]) -> None:
        request, seen, score = self._request, self._seen, self._score
        amounts, confinement, eligible = request.amounts, request.confinement, request.eligible
        for node in nodes:
            offer = node.offer
            # ResourceRequest.fits, written out: most nodes that changed have no room.
            for resource, units in amounts:
                if offer.get(resource, 0) < units:
                    break
            else:
                name, version = node.name, node.version
                if seen.get(name) == version or name not in eligible:
                    continue
                if request.devices and not node.devices.fit(request.devices):
                    continue
                if confinement is None or confinement.has_room(node, request.confined):
                    seen[name] = version
                    add((score(node, request), name, version, node))


class _Use(ScoredStrategy):
    """Orders nodes by how much of one resource is used, whatever is asked."""

    def score(self, node: Node, request: ResourceRequest) -> Score:
        total = node.total.get(self.name, 0)
        return (total - node.free[self.name]) / total if total > 0 else 1.0


class LeastLoaded:
    """Finds the node that a function would load least, by orders that all requests share.

    A node's load after placing is at least the share of any one resource.  So the nodes are gone
    through by the share of that resource which promises least, and only until the bound that
    follows from it reaches the best load found: with many nodes alike, after very few.
    """

    def __init__(self, ledger: Ledger, anything: ResourceRequest, looks: int) -> None:
        self._ledger = ledger
        #: Asks for a thread and no more; any node will do for it.
        self._anything = anything
        #: So many nodes are looked at before it gives up.
        self._looks = looks
        self._orders: dict[str, NodeOrder] = {}

    def best(self, request: ResourceRequest, barred: Collection[str]) -> Node | None:
        """The node with room and the lowest load after placing; None if it is not easily found."""
        scarcest, step = self._scarcest(request)
        if scarcest is None:
            return None
        best: tuple[float, str, Node] | None = None
        left = self._looks

        def found(entry: Entry) -> bool:
            nonlocal best, left
            share, name, _, node = entry
            left -= 1
            if left < 0 or (best is not None and (share + step, name) >= best[:2]):
                return True
            if name not in barred and request.eligible.get(name) is node and request.fits(node):
                load = load_after(node, request)
                if best is None or (load, name) < best[:2]:
                    best = (load, name, node)
            return False

        scarcest.look(found)
        return best[2] if best is not None and left >= 0 else None

    def _scarcest(self, request: ResourceRequest) -> tuple[NodeOrder | None, float]:
        """The order by the resource of which even the least loaded node would have least left."""
        most, chosen, step = -1.0, None, 0.0
        for name, units in request.amounts:
            order = self._orders.get(name)
            if order is None:
                order = self._orders[name] = NodeOrder(self._anything, _Use(name), self._ledger)
            top, largest = order.first(), self._ledger.largest(name)
            if top is not None and largest and top[0] + units / largest > most:
                most, chosen, step = top[0] + units / largest, order, units / largest
        return chosen, step
