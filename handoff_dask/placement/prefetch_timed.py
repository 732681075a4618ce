"""Timed prefetch: a long function is sent shortly before the one ends whose room it takes over.

A driver needs a round trip to learn that a function has ended and to start the next, and so long
the room is idle.  Where it is known for sure when a function ends, the one that would get its room
then is prefetched, and waits on the node.  It asks for no more than the first, and has nothing
booked before it takes over, so the ledger stays exact.

The node holds it back as in a prefetch queue (see :mod:`handoff_dask.placement.prefetch`) of one slot:
from its start, a function that may be followed has a number of its own there.  These numbers come
after those of prefetch queues.

A function whose data has to move is sent earlier by as long as the move takes, so that the data moves while
the room is still in use.  For that, an expected end will do that is not certain.

What is prefetched is assigned early.  So no function is sent if one that becomes ready with the end
of the first would go before, nor while expected ends are wrong by more than the lead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from heapq import heapify, heappop, heappush

from handoff_dask.placement.backlog import Backlog
from handoff_dask.placement.choosing import Chooser
from handoff_dask.placement.ledger import Node
from handoff_dask.placement.locality import Locality
from handoff_dask.placement.prefetch import PrefetchQueues
from handoff_dask.placement.queues import OrderKey, Queue, ScheduledFunction, TimedPrefetch
from handoff_dask.placement.shares import RunParty

#: Sums of floats: what is due this much later is due now.
_EVEN_S = 1e-9


class TimedPrefetches:
    """The timed prefetches of all nodes, and when each is due."""

    def __init__(
        self, backlog: Backlog, chooser: Chooser, locality: Locality, prefetch_queues: PrefetchQueues
    ) -> None:
        settings = backlog.settings
        self._backlog = backlog
        self._chooser = chooser
        self._locality = locality
        self._prefetch = prefetch_queues
        self._settings = settings
        self._lead_s = self._least_lead_s = settings.timed_prefetch_lead_s
        first = settings.prefetch_queues
        self._numbers = range(first, first + settings.timed_prefetches)
        #: How many there are.
        self._count = 0
        #: How much longer than expected functions hold their room: the round trip, as a rule.
        self._delay_s = 0.0
        #: By what share of a function's duration that is wrong, as a rule.
        self._error = settings.timed_prefetch_doubt
        #: How long the data of recent functions took to move, as a rule.
        self._move_s = 0.0
        #: ``(when, number, function)``; void once the function has ended.
        self.pending: list[tuple[float, int, ScheduledFunction]] = []
        self._number = 0

    def measured(self, round_trip_s: float) -> None:
        """Take over how long a place is idle between two functions: the next one is sent as much earlier."""
        if self._least_lead_s:
            self._lead_s = max(self._least_lead_s, round_trip_s)

    def deadline(self) -> float | None:
        """When the next function is about to end that may be followed."""
        due = self.pending
        while due and not _is_open(due[0][2]):
            heappop(due)
        return due[0][0] if due and self._backlog.waiting else None

    def is_due(self, now: float) -> bool:
        """Whether some function is about to end."""
        return bool(self.pending) and self.pending[0][0] <= now and bool(self._backlog.waiting)

    def book(self, scheduled: ScheduledFunction, node: Node) -> None:
        """Let a function that has got room be followed, if it is known when it will end."""
        if (
            not self._lead_s
            or scheduled.prefetch_queue is not None
            or len(node.followed) >= len(self._numbers)
        ):
            return
        number = next(n for n in self._numbers if n not in node.followed)
        node.followed[number] = None
        scheduled.timed_prefetch = TimedPrefetch(node, number, scheduled)
        self._count += 1
        self._watch(scheduled)

    def learn_move(self, move_s: float) -> None:
        """Note how long the data of a function takes to move that has just been placed."""
        if move_s > self._settings.transfer_floor_s:
            self._move_s = max(move_s, self._move_s + self._settings.mean_weight * (move_s - self._move_s))

    def learn(self, scheduled: ScheduledFunction, took_s: float | None, now: float) -> None:
        """Note how good the expectation of a function was that has just ended."""
        duration_s = scheduled.duration_s or 0.0
        if duration_s <= self._prefetch.round_trip_s:
            return
        held_s = now - scheduled.placed_at
        expected_s = duration_s
        if took_s is None:
            # All that is known contains the round trip.
            took_s, expected_s = held_s, duration_s + self._delay_s
        error = abs(took_s - expected_s) / duration_s
        self._error += self._settings.mean_weight * (min(error, 1.0) - self._error)
        late_s = min(max(held_s - min(took_s, duration_s), 0.0), self._prefetch.round_trip_s)
        self._delay_s += self._settings.mean_weight * (late_s - self._delay_s)

    def end(self, scheduled: ScheduledFunction, now: float) -> None:
        """Note that a function has ended whose claim has just been returned."""
        timed_prefetch = scheduled.timed_prefetch
        assert timed_prefetch is not None
        successor, timed_prefetch.next = timed_prefetch.next, None
        if successor is None:
            self._count -= 1
            timed_prefetch.is_over = True
            del timed_prefetch.node.followed[timed_prefetch.number]
        else:
            timed_prefetch.node.waiting_here -= 1
            if successor is not scheduled:
                self._take_over(timed_prefetch, successor, now)

    def prefetch(self, now: float, sent: Callable[[ScheduledFunction, Node], None]) -> None:
        """Send those whose room is about to be free; ``sent`` is told of each."""
        while self.is_due(now):
            scheduled = heappop(self.pending)[2]
            timed_prefetch = scheduled.timed_prefetch
            if timed_prefetch is None or not _is_open(scheduled):
                continue
            due_s, move_s = self._due_s(scheduled), 0.0
            if not self._backlog.network.data and not self._can_tell(scheduled, due_s, move_s, now):
                continue
            if due_s > now + _EVEN_S and self._locality.has_waiting(timed_prefetch.node):
                # Nothing has to move there for what comes next.
                if scheduled.certain:
                    self._enter(scheduled, due_s)
                continue
            successor = self._successor(scheduled, timed_prefetch.node)
            if successor is not None and successor.data:
                move_s = self._backlog.network.move_s(successor.data, timed_prefetch.node.name)
                due_s -= move_s
            if due_s > now + _EVEN_S:
                # It was looked at early, for data that might have to move.
                self._enter(scheduled, due_s)
            elif successor is not None and self._can_tell(scheduled, due_s, move_s, now):
                self._send(successor, timed_prefetch)
                sent(successor, timed_prefetch.node)

    # Inside

    def _due_s(self, scheduled: ScheduledFunction) -> float:
        return scheduled.placed_at + scheduled.move_s + (scheduled.duration_s or 0.0) - self._lead_s

    def _watch(self, scheduled: ScheduledFunction) -> None:
        if scheduled.certain:
            early_s = self._move_s if self._backlog.network.data else 0.0
        elif scheduled.duration_s is not None and self._backlog.network.data:
            early_s = self._move_s
        else:
            return
        self._enter(scheduled, self._due_s(scheduled) - early_s)

    def _enter(self, scheduled: ScheduledFunction, when: float) -> None:
        """See then whether a function may be followed."""
        self._number += 1
        heappush(self.pending, (when, self._number, scheduled))
        # Ends that were expected far too late must not pile up.
        if len(self.pending) > 4 * self._count + 64:
            self.pending = [entry for entry in self.pending if _is_open(entry[2])]
            heapify(self.pending)

    def _can_tell(self, scheduled: ScheduledFunction, due_s: float, move_s: float, now: float) -> bool:
        """Whether a function is about to end, as far as expectations are to be trusted.

        Where data has to move there is time until it is there, however wrong they are.
        """
        if move_s > self._settings.transfer_floor_s:
            return now <= due_s + move_s + 2 * self._lead_s
        is_near = scheduled.certain and now <= due_s + 2 * self._lead_s
        return is_near and self._error * (scheduled.duration_s or 0.0) <= self._lead_s

    def _successor(self, scheduled: ScheduledFunction, node: Node) -> ScheduledFunction | None:
        """The function that would get the room of another if that ended now, and asks for no more."""
        reservation = self._backlog.reserved.get(node.name)
        if not node.offer or (reservation is not None and not reservation.for_order):
            return None
        if self._backlog.outside and self._prefetch.leaves_to_outside(scheduled.queue):
            return None
        with self._as_if_over(scheduled, node):
            queue = self._first_fit(node)
            if queue is None or queue.key is None or queue.queue_group.outside:
                return None
            is_its_turn = self._backlog.goes_before(queue.key, scheduled.order_key())
        asked, head = scheduled.queue.request.asked, queue.key[3]
        is_short = self._prefetch.is_short(head) and self._locality.is_near(head, node.name)
        if (
            is_short
            # It takes over the very devices of the other.
            or queue.request.devices not in (0, scheduled.queue.request.devices)
            or any(units > asked.get(name, 0) for name, units in queue.amounts)
        ):
            return None
        held = dict(scheduled.queue.request.shared)
        if any(units > held.get(resource, 0) for resource, units in queue.request.shared):
            return None
        if head.run is not scheduled.run:
            # What becomes ready with the end of the first is of its run.
            return head if is_its_turn else None
        next_rank = _next_rank(scheduled)
        return head if (head.priority, head.rank) >= (scheduled.priority, next_rank) else None

    @contextmanager
    def _as_if_over(self, scheduled: ScheduledFunction, node: Node) -> Iterator[None]:
        """Have a function's claim returned for a moment."""
        request, queue_group, free = scheduled.queue.request, scheduled.queue.queue_group, node.free
        lent = node.devices.give_back(scheduled.function) if request.devices else ()
        for resource, units in request.shared:
            resource.free += units
        for name, units in request.amounts:
            free[name] += units
        queue_group.claims -= 1
        if request.confinement is not None:
            request.confinement.give_back(node, request.confined)
        with self._backlog.shares.as_if_returned(scheduled.queue.party, request.claims):
            yield
        if request.devices:
            node.devices.hold(scheduled.function, lent)
        for resource, units in request.shared:
            resource.free -= units
        for name, units in request.amounts:
            free[name] -= units
        queue_group.claims += 1
        if request.confinement is not None:
            request.confinement.take(node, request.confined)

    def _first_fit(self, node: Node) -> Queue | None:
        """The queue whose head would be placed on the node next, if none that asks goes before."""
        passed: dict[RunParty, OrderKey] = {}
        found = self._backlog.first_fit(node, passed, with_data=True)
        for _ in range(self._settings.timed_prefetch_tries):
            if found is None or found.key is None:
                break
            goes = found.home is None or self._locality.goes(found, node)
            if goes and self._chooser.admits(found, found.key[3], node):
                return None if self._is_asked_before(found.key) else found
            passed[found.party] = found.key
            found = self._backlog.first_fit(node, passed, with_data=True)
        return None

    def _is_asked_before(self, order_key: OrderKey) -> bool:
        heads = (queue.head() for queue in self._backlog.to_ask)
        return any(head is not None and self._backlog.goes_before(head, order_key) for head in heads)

    def _send(self, successor: ScheduledFunction, timed_prefetch: TimedPrefetch) -> None:
        queue = successor.queue
        queue.pop()
        timed_prefetch.next, successor.timed_prefetch = successor, timed_prefetch
        timed_prefetch.node.waiting_here += 1
        if queue.request.devices:
            successor.devices = timed_prefetch.runs.devices
        queue.queue_group.claims += 1
        queue.request.take(self._backlog.ledger, timed_prefetch.node, booked=())

    def _take_over(self, timed_prefetch: TimedPrefetch, successor: ScheduledFunction, now: float) -> None:
        self._backlog.shares.take(successor.queue.party, successor.queue.request.claims)
        successor.queue.request.fill(self._backlog.ledger, timed_prefetch.node)
        if successor.queue.request.devices:
            devices = timed_prefetch.node.devices
            devices.hold(successor.function, devices.give_back(timed_prefetch.runs.function))
        timed_prefetch.runs = successor
        # It began a round trip before one would have that was placed only now.
        successor.placed_at = now - self._delay_s
        successor.move_s = self._backlog.network.move_s(successor.data, timed_prefetch.node.name)
        self._watch(successor)


def _next_rank(scheduled: ScheduledFunction) -> float:
    """The largest rank among the functions that become ready when one ends."""
    ask = scheduled.run.next_rank
    next_rank = None if ask is None else ask(scheduled.function)
    return scheduled.rank - (scheduled.duration_s or 0.0) if next_rank is None else next_rank


def _is_open(scheduled: ScheduledFunction) -> bool:
    """Whether a function runs that may be followed, and nobody has been sent yet."""
    timed_prefetch = scheduled.timed_prefetch
    if timed_prefetch is None or timed_prefetch.runs is not scheduled or timed_prefetch.next is not None:
        return False
    return not timed_prefetch.is_over
