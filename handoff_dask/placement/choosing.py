"""Choosing a node for a function, among those that have room for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from handoff_dask.placement.amounts import THREAD
from handoff_dask.placement.backfill import Backfill
from handoff_dask.placement.backlog import Backlog
from handoff_dask.placement.collocation import Group
from handoff_dask.placement.ledger import Node
from handoff_dask.placement.queues import Queue, ScheduledFunction
from handoff_dask.placement.requests import Order, ResourceRequest
from handoff_dask.placement.searching import LeastLoaded, NodeOrder
from handoff_dask.placement.strategies import ScoredStrategy


class Chooser:
    """Applies the built-in strategies, within the limits of runs and reservations."""

    def __init__(self, backlog: Backlog, backfill: Backfill) -> None:
        self._backlog = backlog
        self._ledger = backlog.ledger
        self._backfill = backfill
        self._settings = backlog.settings
        self._least_loaded = self._new_order_by_load()
        #: Names of nodes whose memory is nearly full.
        self.full_nodes: dict[str, None] = {}

    def _new_order_by_load(self) -> LeastLoaded:
        return LeastLoaded(self._ledger, self._backlog.tables.anything, self._settings.least_loaded_looks)

    def forget(self) -> None:
        """Drop what was kept to find nodes sooner."""
        self._least_loaded = self._new_order_by_load()

    def admits(self, queue: Queue, head: ScheduledFunction, node: Node) -> bool:
        """Whether a function may start on a node that could hold it."""
        if not queue.request.fits(node) or queue.is_barred:
            return False
        reserved = self._backlog.reserved
        if reserved and node.name in reserved and not reserved[node.name].admits(head):
            return False
        return queue.to_bind is None or queue.to_bind.can_be_bound()

    def backfills(self, queue: Queue, node: Node) -> ScheduledFunction | None:
        """The first of those that a node which is reserved for another admits, of a few behind the head."""
        if (
            node.name not in self._backlog.reserved
            or node.name not in self.able(queue)
            or not queue.request.fits(node)
        ):
            return None
        admitted = [w for w in queue.first_few(self._settings.backfill_depth) if self.admits(queue, w, node)]
        return min(admitted, key=lambda w: w.order_key()[:3], default=None)

    def choose(self, queue: Queue, head: ScheduledFunction) -> tuple[Node | None, int]:
        """The node for the head of a queue, and how many had room; None if none has."""
        backlog, request = self._backlog, queue.request
        if queue.is_barred or (queue.to_bind is not None and not queue.to_bind.can_be_bound()):
            return None, 0
        if backlog.is_tied(queue):
            node = backlog.target(queue)
            if node is None or node.name not in request.eligible or not self.admits(queue, head, node):
                return None, 0
            return node, 1
        strategy = queue.queue_group.strategy
        barred = self._backfill.barring(head)
        if head.data and queue.home is None:
            nodes = self.fitting(queue, head)
            return (self.best_of(queue, head, nodes) if nodes else None), len(nodes)
        node = None
        if self.full_nodes and not head.frees:
            # It only adds to what is in memory.
            node = self._best(request, strategy, barred.union(self.full_nodes))
        if node is None:
            node = self._best(request, strategy, barred)
        if node is None:
            return None, 0
        if head.preferred_node is not None and head.preferred_node != node.name:
            preferred_node = request.eligible.get(head.preferred_node)
            if preferred_node is not None and self.admits(queue, head, preferred_node):
                node = _or_preferred(queue, head, node, preferred_node)
        return node, request.count_fitting(self._settings.counted_nodes)

    def fitting(self, queue: Queue, head: ScheduledFunction) -> list[Node]:
        """All nodes where the head of a queue may start now."""
        tied = self._backlog.target(queue)
        if self._backlog.is_tied(queue):
            nodes = [tied] if tied is not None and tied.name in queue.request.eligible else []
        else:
            nodes = list(queue.request.eligible.values())
        return [node for node in nodes if self.admits(queue, head, node)]

    def able(self, queue: Queue) -> Mapping[str, Node]:
        """The nodes that could hold the head of a queue when idle, by name."""
        if not self._backlog.is_tied(queue):
            return queue.request.eligible
        tied = self._backlog.target(queue)
        return {tied.name: tied} if tied is not None and tied.name in queue.request.eligible else {}

    def best_of(self, queue: Queue, head: ScheduledFunction, nodes: Sequence[Node]) -> Node:
        """The best of a few nodes that all have room."""
        strategy, request = queue.queue_group.strategy, queue.request
        if head.data and len(nodes) > 1:
            nodes = self._nearest(head, strategy, nodes)
        if self.full_nodes and not head.frees:
            nodes = [node for node in nodes if node.name not in self.full_nodes] or nodes
        best = min(nodes, key=lambda n: (strategy.score(n, request), n.name))
        preferred_node = next((node for node in nodes if node.name == head.preferred_node), None)
        return best if preferred_node is None else _or_preferred(queue, head, best, preferred_node)

    def node_for(self, group: Group, strategy: ScoredStrategy) -> Node:
        """The node to bind a group to: one with room for all of it now, or else one that could hold it."""
        request = group.request
        if group.pin is not None:
            node = self._ledger.find(group.pin)
            assert node is not None
            return node
        best = self._best(request, strategy, frozenset())
        if best is not None:
            return best
        eligible = list(request.eligible.values())
        present = [node for node in eligible if node.present]
        best = min_by_score(strategy, request, [node for node in present if node.offer] or present)
        assert best is not None
        return best

    def cause(self, queue: Queue) -> str:
        """Why the head of a queue waits, in a word."""
        backlog = self._backlog
        if not backlog.is_possible(queue):
            return "pin" if queue.pin is not None else "no nodes"
        if queue.delay is not None:
            return "data"
        if queue.queue_group.full:
            return "max_concurrency"
        if queue.is_barred:
            return "held back" if queue.is_held_back else "shared"
        if queue.refused:
            return "tracker"
        if queue.declined:
            return "strategy"
        if backlog.is_tied(queue):
            return "pin" if queue.pin is not None else "collocation"
        if queue.to_bind is not None and not queue.to_bind.can_be_bound():
            return "collocation"
        return self._shortage(queue.request)

    def _shortage(self, request: ResourceRequest) -> str:
        barred = short_of_threads = confined = False
        for node, _ in zip(request.eligible.values(), range(self._settings.cause_looks), strict=False):
            if node.has_room(request.amounts) and request.devices and not node.devices.fit(request.devices):
                continue
            if node.has_room(request.amounts):
                if request.confinement is None or request.confinement.has_room(node, request.confined):
                    barred = True
                else:
                    confined = True
            elif node.offer.get(THREAD, 1) < 1 and node.has_room(request.amounts[1:]):
                short_of_threads = True
        if barred:
            return "reservation"
        if confined:
            return "confined"
        return "thread" if short_of_threads else "room"

    def _best(
        self, request: ResourceRequest, strategy: ScoredStrategy, barred: frozenset[str]
    ) -> Node | None:
        if (
            strategy.is_by_load
            and len(request.eligible) >= self._settings.many_nodes
            and request.confinement is None
        ):
            best = self._least_loaded.best(request, barred)
            if best is not None:
                return best
        return self._order(request, strategy).best(barred)

    def _order(self, request: ResourceRequest, strategy: ScoredStrategy) -> Order:
        order = request.orders.get(strategy)
        if order is None:
            order = request.orders[strategy] = NodeOrder(request, strategy, self._ledger)
        return order

    def _nearest(
        self, head: ScheduledFunction, strategy: ScoredStrategy, nodes: Sequence[Node]
    ) -> Sequence[Node]:
        """The nodes to which moving a function's data takes least."""
        moves = [self._backlog.network.move_s(head.data, node.name) for node in nodes]
        slack_s = 0.0 if strategy.heeds_transfer else self._settings.transfer_floor_s
        least_s = min(moves) + slack_s
        return [node for node, move_s in zip(nodes, moves, strict=True) if move_s <= least_s]


def min_by_score(strategy: ScoredStrategy, request: ResourceRequest, nodes: Sequence[Node]) -> Node | None:
    """The node with the lowest score, the first in name order among equals."""
    return min(nodes, key=lambda n: (strategy.score(n, request), n.name), default=None)


def _or_preferred(queue: Queue, head: ScheduledFunction, node: Node, preferred_node: Node) -> Node:
    """The node that has most of a function's arguments, if it is as good as the best."""
    strategy, request = queue.queue_group.strategy, queue.request
    if strategy.is_by_name:
        return node
    return (
        preferred_node if strategy.score(preferred_node, request) == strategy.score(node, request) else node
    )
