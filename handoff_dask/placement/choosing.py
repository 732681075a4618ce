"""Choosing a node for a function, among those that have room for it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from handoff_dask.placement.backlog import Backlog
from handoff_dask.placement.collocation import Group
from handoff_dask.placement.ledger import THREAD, Node
from handoff_dask.placement.queues import Queue, Waiting
from handoff_dask.placement.reservation import Reservations
from handoff_dask.placement.searching import MANY, LeastLoaded, NodeOrder
from handoff_dask.placement.shapes import Shape
from handoff_dask.placement.strategies import ScoredStrategy

#: How many nodes are looked at to tell a lack of threads from a lack of room.
_SAMPLE = 8
#: How many of a queue are looked at for one that may start on a reserved node.
BEHIND = 16


class Chooser:
    """Applies the built-in strategies, within the limits of runs and reservations."""

    def __init__(self, backlog: Backlog, reservations: Reservations) -> None:
        self._backlog = backlog
        self._ledger = backlog.ledger
        self._reservations = reservations
        self._least_loaded = LeastLoaded(backlog.ledger, backlog.anything)

    def forget(self) -> None:
        """Drop what was kept to find nodes sooner."""
        self._least_loaded = LeastLoaded(self._ledger, self._backlog.anything)

    def admits(self, queue: Queue, head: Waiting, node: Node) -> bool:
        """Whether a function may start on a node that could hold it."""
        if not queue.shape.fits(node) or queue.scope.full:
            return False
        if node.reservation is not None and not node.reservation.admits(head):
            return False
        return queue.to_bind is None or queue.to_bind.can_be_bound()

    def slips_in(self, queue: Queue, node: Node) -> Waiting | None:
        """The first of those that a node which is kept for another admits, of a few behind the head."""
        if node.reservation is None or node.name not in self.able(queue) or not queue.shape.fits(node):
            return None
        admitted = [w for w in queue.first_few(BEHIND) if self.admits(queue, w, node)]
        return min(admitted, key=lambda w: w.place()[:3], default=None)

    def choose(self, queue: Queue, head: Waiting) -> tuple[Node | None, int]:
        """The node for the head of a queue, and how many had room; None if none has."""
        backlog, shape = self._backlog, queue.shape
        if queue.scope.full or (queue.to_bind is not None and not queue.to_bind.can_be_bound()):
            return None, 0
        if backlog.is_tied(queue):
            node = backlog.target(queue)
            if node is None or node.name not in shape.holders or not self.admits(queue, head, node):
                return None, 0
            return node, 1
        strategy = queue.scope.strategy
        barred = self._reservations.barring(head)
        if head.transfer_s and strategy.heeds_transfer:
            node = self._nearest(shape, head, strategy, barred)
        else:
            node = self._best(shape, strategy, barred)
        if node is None:
            return None, 0
        if head.home is not None and head.home != node.name:
            home = shape.holders.get(head.home)
            if home is not None and self.admits(queue, head, home):
                node = _or_home(queue, head, node, home)
        return node, shape.count_fitting()

    def fitting(self, queue: Queue, head: Waiting) -> list[Node]:
        """All nodes where the head of a queue may start now."""
        tied = self._backlog.target(queue)
        if self._backlog.is_tied(queue):
            nodes = [tied] if tied is not None and tied.name in queue.shape.holders else []
        else:
            nodes = list(queue.shape.holders.values())
        return [node for node in nodes if self.admits(queue, head, node)]

    def able(self, queue: Queue) -> Mapping[str, Node]:
        """The nodes that could hold the head of a queue when idle, by name."""
        if not self._backlog.is_tied(queue):
            return queue.shape.holders
        tied = self._backlog.target(queue)
        return {tied.name: tied} if tied is not None and tied.name in queue.shape.holders else {}

    def best_of(self, queue: Queue, head: Waiting, nodes: Sequence[Node]) -> Node:
        """The best of a few nodes that all have room."""
        strategy, shape, away = queue.scope.strategy, queue.shape, head.transfer_s
        if strategy.heeds_transfer and away:
            best = min(nodes, key=lambda n: (away.get(n.name, 0.0), strategy.score(n, shape), n.name))
        else:
            best = min(nodes, key=lambda n: (strategy.score(n, shape), n.name))
        home = next((node for node in nodes if node.name == head.home), None)
        return best if home is None else _or_home(queue, head, best, home)

    def node_for(self, group: Group) -> Node:
        """The node to bind a group to: one with room for all of it now, or else one that could hold it."""
        shape, strategy = group.shape, group.run.scope.strategy
        if group.pin is not None:
            node = self._ledger.find(group.pin)
            assert node is not None
            return node
        best = self._best(shape, strategy, frozenset())
        if best is not None:
            return best
        holders = list(shape.holders.values())
        present = [node for node in holders if node.present]
        best = min_by_score(strategy, shape, [node for node in present if node.offer] or present)
        assert best is not None
        return best

    def cause(self, queue: Queue) -> str:
        """Why the head of a queue waits, in a word."""
        backlog = self._backlog
        if not backlog.is_possible(queue):
            return "pin" if queue.pin is not None else "no nodes"
        if queue.scope.full:
            return "max_concurrency"
        if queue.refused:
            return "tracker"
        if queue.declined:
            return "strategy"
        if backlog.is_tied(queue):
            return "pin" if queue.pin is not None else "collocation"
        if queue.to_bind is not None and not queue.to_bind.can_be_bound():
            return "collocation"
        return self._shortage(queue.shape)

    def _shortage(self, shape: Shape) -> str:
        barred = short_of_threads = confined = False
        for node, _ in zip(shape.holders.values(), range(_SAMPLE), strict=False):
            if node.has_room(shape.amounts):
                if shape.confinement is None or shape.confinement.has_room(node, shape.amounts):
                    barred = True
                else:
                    confined = True
            elif node.offer.get(THREAD, 1) < 1 and node.has_room(shape.cost.amounts):
                short_of_threads = True
        if barred:
            return "reservation"
        if confined:
            return "confined"
        return "thread" if short_of_threads else "room"

    def _best(self, shape: Shape, strategy: ScoredStrategy, barred: frozenset[str]) -> Node | None:
        if strategy.is_by_load and len(shape.holders) >= MANY and shape.confinement is None:
            best = self._least_loaded.best(shape, barred)
            if best is not None:
                return best
        return self._order(shape, strategy).best(barred)

    def _order(self, shape: Shape, strategy: ScoredStrategy) -> NodeOrder:
        order = shape.orders.get(strategy)
        if order is None:
            order = shape.orders[strategy] = NodeOrder(shape, strategy, self._ledger)
        return order

    def _nearest(
        self, shape: Shape, head: Waiting, strategy: ScoredStrategy, barred: frozenset[str]
    ) -> Node | None:
        """The node with room to which the arguments come soonest."""
        away, holders = head.transfer_s, shape.holders
        # Nodes that are left out have the arguments: if one of them has room it is the best.
        if 2 * len(away) < len(holders):
            best = self._best(shape, strategy, barred.union(away))
        else:
            here = [n for name, n in holders.items() if name not in away and name not in barred]
            best = min_by_score(strategy, shape, [n for n in here if shape.fits(n)])
        if best is not None:
            return best
        soonest = math.inf
        nearest: list[Node] = []
        for name, seconds in away.items():
            if seconds <= soonest and name not in barred:
                node = holders.get(name)
                if node is not None and shape.fits(node):
                    nearest = [*nearest, node] if seconds == soonest else [node]
                    soonest = seconds
        return min_by_score(strategy, shape, nearest)


def min_by_score(strategy: ScoredStrategy, shape: Shape, nodes: Sequence[Node]) -> Node | None:
    """The node with the lowest score, the first in name order among equals."""
    return min(nodes, key=lambda n: (strategy.score(n, shape), n.name), default=None)


def _or_home(queue: Queue, head: Waiting, node: Node, home: Node) -> Node:
    """The node that has most of a function's arguments, if it is as good as the best."""
    strategy, shape, away = queue.scope.strategy, queue.shape, head.transfer_s
    if strategy.is_by_name:
        return node
    if strategy.heeds_transfer and away.get(home.name, 0.0) != away.get(node.name, 0.0):
        return node
    return home if strategy.score(home, shape) == strategy.score(node, shape) else node
