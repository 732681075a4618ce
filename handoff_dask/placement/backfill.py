"""Backfill reservations: a node is cleared for a function that must not be passed over.

Smaller functions fill the gaps that a larger one cannot use (*backfill*).  They must not delay what
is urgent, nor for ever keep out a larger one.  So a node is reserved for the head of a queue: the
one where it will have room first.  Until it starts, another function may start there only if it
does not delay it: it ends before, or fits beside it.  There are two kinds:

1. *For the first in order.*  The first in order of those that have no room gets a node at once, if it
   is known when there will be room.  A function that goes before it in the order is not held back.
2. *For one that has waited too long* (*aging*).  A queue (functions of one demand) from which nothing
   could be placed for its aging time gets a node.  The aging time is a multiple of how long
   functions take (its own expected duration or the typical one, whichever is longer), and not less
   than ``EngineSettings.aging_floor_s``.

Besides, the function that has waited longest of all, a multiple of its aging time, goes before all
others of its user priority.  That happens only once per such time, so the order stays what it is.

A function of a strictly higher user priority is never held back.  While there is one run alone whose
durations are known for sure, there is no aging: among its own functions order counts, not fairness.  While
there is one run alone of which less is known, only the queues that stand first in the order age.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from heapq import nsmallest

from handoff_dask.placement.backlog import Backlog
from handoff_dask.placement.expected_room import missing, plan_of
from handoff_dask.placement.ledger import Node
from handoff_dask.placement.queues import OrderKey, Queue, ScheduledFunction
from handoff_dask.placement.reservation import Reservation

_NONE: frozenset[str] = frozenset()


class Backfill:
    """Who has waited too long, and which nodes are being cleared for them."""

    def __init__(self, backlog: Backlog) -> None:
        self._backlog = backlog
        self._settings = backlog.settings
        #: The reservation for the first in order, and the head for which there is none.
        self._for_order: Reservation | None = None
        self._hopeless: ScheduledFunction | None = None
        #: ``{node name: its reservation}``.
        self.active = backlog.reserved
        #: How long functions take, the recent ones counting most; None before the first ended.
        self.typical_s: float | None = None
        self._next_review = -math.inf
        self._oldest_first_s = -math.inf

    def barring(self, head: ScheduledFunction) -> frozenset[str]:
        """The nodes on which a function must not start because of a reservation."""
        if not self.active:
            return _NONE
        return frozenset(name for name, r in self.active.items() if not r.admits(head))

    def learn(self, held_s: float) -> None:
        """Note how long a function took."""
        typical = self.typical_s
        self.typical_s = (
            held_s if typical is None else typical + self._settings.mean_weight * (held_s - typical)
        )

    def aging_s(self, scheduled: ScheduledFunction) -> float:
        """How long a function may be passed over."""
        longer_s = max(self.typical_s or 0.0, scheduled.duration_s or 0.0)
        return max(self._settings.aging_floor_s, self._settings.aging_factor * longer_s)

    def drop(self, node: Node) -> None:
        """Let anybody use a node again."""
        reservation = self.active.pop(node.name, None)
        if reservation is not None:
            if reservation is self._for_order:
                self._for_order = None
            self._backlog.ledger.freed[node.name] = node

    def settled(self, scheduled: ScheduledFunction, node: Node) -> None:
        """Note that a function has been placed."""
        reservation = self.active.get(node.name)
        if reservation is not None and reservation.queue is not scheduled.queue:
            if reservation.for_order and reservation.is_behind(scheduled):
                self.drop(node)
            else:
                reservation.started(scheduled)
        self.let_go(scheduled.queue)
        self._backlog.ledger.shared.let_go(scheduled.queue, scheduled.queue.request.shared)

    def let_go(self, queue: Queue) -> None:
        """End the reservations for a queue: something of it has been placed."""
        if self.active:
            for reservation in list(self.active.values()):
                if reservation.queue is queue:
                    self.drop(reservation.node)

    def reserve_for_first(self, queue: Queue, order_key: OrderKey) -> None:
        """Before a queue is offered room: reserve a node for the first that has none, if it goes before."""
        least_s = self._settings.reserve_from_s
        if self._backlog.longest_s < least_s and self._for_order is None:
            return
        first = self._backlog.first_blocked()
        if first is None or first is queue or first.key is None:
            return
        if not self._backlog.goes_before(first.key, order_key):
            return
        first_reserved, head = self._for_order, first.key[3]
        if first_reserved is not None:
            if first_reserved.queue is first:
                return
            self.drop(first_reserved.node)
        if head is self._hopeless or head.duration_s is None or head.duration_s < least_s:
            return
        few = len(first.request.eligible) <= self._settings.reserve_among
        if not few or not self._reserve(first, for_order=True):
            self._hopeless = head

    def look_again(self, scheduled: ScheduledFunction) -> None:
        """Note that it has become known how long a function takes: it may fit in before another."""
        if self.active and scheduled.queue.key is not None:
            self._backlog.refresh(scheduled.queue)

    def deadline(self) -> float | None:
        """When it is time to see whether a node is reserved in vain."""
        return None if self._for_order is None else self._for_order.lapses_s

    def review(self, now: float) -> None:
        """End reservations for which nobody waits; look for those who have waited too long."""
        first_reserved = self._for_order
        if first_reserved is not None and first_reserved.lapses_s <= now and first_reserved.queue.count:
            # Those that run there take longer than was thought: nobody knows when they end.
            order_key = first_reserved.queue.head()
            assert order_key is not None
            self._hopeless = order_key[3]
            self.drop(first_reserved.node)
        for reservation in list(self.active.values()):
            if not reservation.queue.count or _is_kept_out(reservation.queue):
                self.drop(reservation.node)
        self._review_shared()
        if now < self._next_review:
            return
        self._next_review = now + self._settings.aging_floor_s / 4
        if self._is_foreseen():
            return
        self._let_oldest_go_first(now)
        if self._backlog.ledger.shared.by_name:
            self._keep_shared(now)
        room = self._most_reserved() - len(self.active)
        for queue in self._passed_over(now):
            if room <= 0:
                break
            if self._reserve(queue):
                room -= 1

    def _most_reserved(self) -> int:
        return max(1, len(self._backlog.ledger.nodes) // self._settings.reserved_share)

    def _review_shared(self) -> None:
        """Keep no shared resource for a queue that is empty by now."""
        shared = self._backlog.ledger.shared
        for resource in shared.by_name.values():
            queue = resource.kept_for
            if isinstance(queue, Queue) and not queue.count:
                shared.let_go(queue, ((resource, 0),))

    def _keep_shared(self, now: float) -> None:
        """Keep shared resources for queues that have waited too long for them: all they need, or nothing."""
        for queue in sorted(self._passed_over(now), key=lambda queue: queue.served):
            shared = queue.request.shared
            if shared and queue.is_barred and all(resource.kept_for is None for resource, _ in shared):
                for resource, units in shared:
                    resource.keep(queue, units)

    def _is_foreseen(self) -> bool:
        """Whether there is one run alone, of which it is known how long functions take.

        Nobody is treated unfairly then: the run's order says what is urgent, to its own good.
        """
        longest = next(iter(self._backlog.waiting.values()), None)
        return len(self._backlog.runs) == 1 and longest is not None and longest.certain

    def _passed_over(self, now: float) -> Iterator[Queue]:
        reserved = {reservation.queue for reservation in self.active.values()}
        queues = [queue for line in self._backlog.lines() for queue in line]
        if len(self._backlog.runs) == 1:
            # Only the first in order are passed over: the others wait for their turn.
            queues = nsmallest(self._most_reserved(), queues, key=_place)
        for queue in queues:
            assert queue.key is not None
            if now - queue.served > self.aging_s(queue.key[3]) and queue not in reserved:
                yield queue

    def _let_oldest_go_first(self, now: float) -> None:
        longest = next(iter(self._backlog.waiting.values()), None)
        if longest is None or longest.rank == math.inf:
            return
        time_s = self._settings.oldest_first_factor * self.aging_s(longest)
        if now - longest.since > time_s and now - self._oldest_first_s > time_s:
            self._oldest_first_s = now
            longest.queue.advance(longest, math.inf)
            self._backlog.reposition(longest.queue)

    def _reserve(self, queue: Queue, for_order: bool = False) -> bool:
        """Reserve a node for the head of a queue; False if there is none to reserve."""
        order_key = queue.head()
        assert order_key is not None
        if queue.is_barred or queue.queue_group.asks_user:
            return False
        backlog, request = self._backlog, queue.request
        tied = backlog.target(queue)
        nodes: Iterable[Node] = [tied] if tied is not None else request.eligible.values()
        if tied is None and backlog.is_tied(queue):
            return False
        if queue.home is not None:
            # Elsewhere it would only keep out functions whose data is there.
            nodes = [node for node in nodes if node.name == queue.home]
        usable = [n for n in nodes if n.offer and n.name not in self.active and n.name in request.eligible]
        near = nsmallest(self._settings.reserve_looks, usable, key=lambda n: missing(n, request))
        plans = [plan for node in near if (plan := plan_of(backlog, node, request)) is not None]
        head = order_key[3]
        best = min(plans, key=lambda p: p[:3], default=None)
        if best is None or (for_order and best.start_s == math.inf):
            return False
        reservation = Reservation(
            backlog.clock, self._settings, queue, head.priority, best, for_order, backlog.goes_before
        )
        if for_order:
            self._for_order = reservation
        self.active[best.name] = reservation
        return True


def _place(queue: Queue) -> OrderKey:
    """Where a queue that waits for room stands in the order."""
    assert queue.key is not None
    return queue.key


def _is_kept_out(queue: Queue) -> bool:
    """Whether a shared resource that a queue needs is kept for another: it could not use a node."""
    return any(r.kept_for not in (None, queue) for r, _ in queue.request.shared)
