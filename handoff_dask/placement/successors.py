"""Successors: a long function is sent shortly before the one ends whose room it takes over.

A driver needs a round trip to learn that a function has ended and to start the next, and so long
the room is idle.  Where it is known for sure when a function ends, the one that would get its
room then is sent ahead, and waits on the node.  It asks for no more than the first, and has
nothing booked before it takes over, so the ledger stays exact.

The node holds it back as in a lane (see :mod:`handoff_dask.placement.lanes`) of one slot: from
its start, a function that may be followed is in a lane of its own, a *relay*.  The numbers of
relays come after those of lanes.

What is sent ahead is bound early.  So nobody is sent if a function that becomes ready with the
end of the first would go before, or while expected ends are wrong by more than the lead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

from handoff_dask.placement.backlog import Backlog
from handoff_dask.placement.choosing import Chooser
from handoff_dask.placement.lanes import Lanes
from handoff_dask.placement.ledger import Node
from handoff_dask.placement.queues import Queue, Waiting

if TYPE_CHECKING:
    from handoff_dask.placement.queues import Place as Standing

#: How long before the expected end of a function the next one is sent.
LEAD_S = 0.02
#: How far off expected ends are thought to be before any has been seen, in shares of durations.
_DOUBT = 0.2
#: Weight of the latest in running means.
_LATEST = 0.1
#: So many queues are tried for one whose head may take over.
_TRIED = 4


class Relay:
    """A function that runs on a node, and the one that takes over its room."""

    __slots__ = ("next", "node", "number", "runs")

    def __init__(self, node: Node, number: int, runs: Waiting) -> None:
        self.node = node
        #: Which of the node's lanes and relays it is.
        self.number = number
        self.runs = runs
        #: The one that takes over, if it has been sent.
        self.next: Waiting | None = None


class Successors:
    """The relays of all nodes, and when each is due."""

    def __init__(
        self, backlog: Backlog, chooser: Chooser, lanes: Lanes, lead_s: float, numbers: range
    ) -> None:
        self._backlog = backlog
        self._chooser = chooser
        self._lanes = lanes
        self._lead_s = lead_s
        self._numbers = numbers
        #: How many relays there are.
        self._count = 0
        #: How much longer than expected functions hold their room: the round trip, as a rule.
        self._delay_s = 0.0
        #: By what share of a function's duration that is wrong, as a rule.
        self._error = _DOUBT
        #: ``(when, number, function)``; void once the function has ended.
        self.pending: list[tuple[float, int, Waiting]] = []
        self._number = 0

    def deadline(self) -> float | None:
        """When the next function is about to end that may be followed."""
        due = self.pending
        while due and not _is_open(due[0][2]):
            heappop(due)
        return due[0][0] if due and self._backlog.waiting else None

    def is_due(self, now: float) -> bool:
        """Whether some function is about to end."""
        return bool(self.pending) and self.pending[0][0] <= now and bool(self._backlog.waiting)

    def book(self, waiting: Waiting, node: Node) -> None:
        """Let a function that has got room be followed, if it is known when it will end."""
        if not self._lead_s or waiting.lane is not None or len(node.relays) >= len(self._numbers):
            return
        number = next(n for n in self._numbers if n not in node.relays)
        waiting.relay = node.relays[number] = Relay(node, number, waiting)
        self._count += 1
        self._watch(waiting)

    def learn(self, waiting: Waiting, took_s: float | None, now: float) -> None:
        """Note how good the expectation of a function was that has just ended."""
        duration_s = waiting.duration_s or 0.0
        if duration_s <= self._lanes.round_trip_s:
            return
        held_s = now - waiting.placed_at
        expected_s = duration_s
        if took_s is None:
            # All that is known contains the round trip.
            took_s, expected_s = held_s, duration_s + self._delay_s
        error = abs(took_s - expected_s) / duration_s
        self._error += _LATEST * (min(error, 1.0) - self._error)
        late_s = min(max(held_s - min(took_s, duration_s), 0.0), self._lanes.round_trip_s)
        self._delay_s += _LATEST * (late_s - self._delay_s)

    def end(self, waiting: Waiting, now: float) -> None:
        """Note that a function has ended whose claim has just been returned."""
        relay = waiting.relay
        assert relay is not None
        successor, relay.next = relay.next, None
        if successor is None:
            self._count -= 1
            del relay.node.relays[relay.number]
        else:
            relay.node.held -= 1
            if successor is not waiting:
                self._take_over(relay, successor, now)

    def send_ahead(self, now: float, follow: Callable[[Waiting, Relay], None]) -> None:
        """Send those whose room is about to be free; ``follow`` is told of each."""
        while self.is_due(now):
            waiting = heappop(self.pending)[2]
            relay = waiting.relay
            if relay is not None and _is_open(waiting) and self._can_tell(waiting, now):
                successor = self._successor(waiting, relay.node)
                if successor is not None:
                    self._send(successor, relay)
                    follow(successor, relay)

    # Inside

    def _due_s(self, waiting: Waiting) -> float:
        return waiting.placed_at + (waiting.duration_s or 0.0) - self._lead_s

    def _watch(self, waiting: Waiting) -> None:
        if not waiting.certain:
            return
        self._number += 1
        heappush(self.pending, (self._due_s(waiting), self._number, waiting))
        # Ends that were expected far too late must not pile up.
        if len(self.pending) > 4 * self._count + 64:
            self.pending = [entry for entry in self.pending if _is_open(entry[2])]
            heapify(self.pending)

    def _can_tell(self, waiting: Waiting, now: float) -> bool:
        """Whether a function is about to end, as far as expectations are to be trusted."""
        is_near = now <= self._due_s(waiting) + 2 * self._lead_s
        return is_near and self._error * (waiting.duration_s or 0.0) <= self._lead_s

    def _successor(self, waiting: Waiting, node: Node) -> Waiting | None:
        """The function that would get the room of another if that ended now, and asks for no more."""
        if not node.offer or (node.reservation is not None and not node.reservation.is_kept):
            return None
        with self._as_if_over(waiting, node):
            queue = self._first_fit(node)
        if queue is None or queue.key is None:
            return None
        asked, head = waiting.queue.shape.asked, queue.key[3]
        if self._lanes.is_short(head) or any(units > asked.get(name, 0) for name, units in queue.amounts):
            return None
        next_rank = _next_rank(waiting)
        return head if (head.priority, head.rank) >= (waiting.priority, next_rank) else None

    @contextmanager
    def _as_if_over(self, waiting: Waiting, node: Node) -> Iterator[None]:
        """Have a function's claim returned for a moment."""
        shape, scope, free = waiting.queue.shape, waiting.queue.scope, node.free
        for name, units in shape.amounts:
            free[name] += units
        scope.claims -= 1
        if shape.confinement is not None:
            shape.confinement.give_back(node, shape.amounts)
        yield
        for name, units in shape.amounts:
            free[name] -= units
        scope.claims += 1
        if shape.confinement is not None:
            shape.confinement.take(node, shape.amounts)

    def _first_fit(self, node: Node) -> Queue | None:
        """The queue whose head would be placed on the node next, if none that asks goes before."""
        found = self._backlog.first_fit(node, None)
        for _ in range(_TRIED):
            if found is None or found.key is None:
                break
            if self._chooser.admits(found, found.key[3], node):
                return None if self._is_asked_before(found.key) else found
            found = self._backlog.first_fit(node, found.key)
        return None

    def _is_asked_before(self, standing: Standing) -> bool:
        places = (queue.head() for queue in self._backlog.asking)
        return any(place is not None and place < standing for place in places)

    def _send(self, successor: Waiting, relay: Relay) -> None:
        queue = successor.queue
        queue.pop()
        relay.next, successor.relay = successor, relay
        relay.node.held += 1
        queue.scope.claims += 1
        queue.shape.take(self._backlog.ledger, relay.node, booked=())

    def _take_over(self, relay: Relay, successor: Waiting, now: float) -> None:
        self._backlog.ledger.fill(relay.node, successor.queue.amounts)
        relay.runs = successor
        # It began a round trip before one would have that was placed only now.
        successor.placed_at = now - self._delay_s
        self._watch(successor)


def _next_rank(waiting: Waiting) -> float:
    """The largest rank among the functions that become ready when one ends."""
    ask = waiting.run.next_rank
    next_rank = None if ask is None else ask(waiting.function)
    return waiting.rank - (waiting.duration_s or 0.0) if next_rank is None else next_rank


def _is_open(waiting: Waiting) -> bool:
    """Whether a function runs that may be followed, and nobody has been sent yet."""
    relay = waiting.relay
    if relay is None or relay.runs is not waiting or relay.next is not None:
        return False
    return relay.node.relays.get(relay.number) is relay
