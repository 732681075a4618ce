"""Reservations: a function that has been passed over for too long gets a node cleared for it.

Smaller functions fill the gaps that a bigger one cannot use.  If they kept coming, the bigger
one would wait for ever.  Two rules prevent that, both measured by *patience*: a multiple of how
long functions take (its own expected duration or the typical one, whichever is longer), and at
least :data:`FLOOR_S`.

1. A queue (functions of one demand) from which nothing could be placed for its patience gets a
   node reserved for its head: the one where it will fit earliest.  Until it starts, a function
   may start there only if it does not delay it: it ends before, or fits beside it.
2. The function that has waited longest of all, :data:`TRICKLE` times its patience, goes before
   all others of its user priority; only one per that time, so the order by rank stays what
   it is but for a trickle.

A function of a strictly higher user priority is never held back.

Apart from fairness, a node is *kept* for the first in order of those that have no room, at once, if
it is known when it will have: filling gaps must not delay what the order says is urgent.  Who
stands before it in the order is not held back.  While there is one run alone whose durations are known for
sure, that is all: among its own functions it is order that counts, not fairness.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from heapq import nsmallest
from typing import NamedTuple

from handoff_dask.placement.backlog import Backlog
from handoff_dask.placement.events import FunctionKey
from handoff_dask.placement.ledger import Amounts, Node
from handoff_dask.placement.queues import Place as Standing
from handoff_dask.placement.queues import Queue, Waiting
from handoff_dask.placement.shapes import Shape

#: Nobody has waited too long before this.
FLOOR_S = 1.0
#: Patience in multiples of how long functions take.
PATIENCE = 4.0
#: How many patiences the function that waits longest waits before it goes first.
TRICKLE = 4.0
#: No node is kept for functions that take less: to look for one takes longer than it would gain.
KEEP_FROM_S = 0.05
#: Nodes are kept if there are no more than so many that could hold the function.
_KEPT_OF = 64
#: A function may delay the one that a node is kept for by so much, and this share of its own time.
GRACE_S, GRACE = 0.02, 0.1
#: A node is kept no longer when the one it is for is so late, and by this share of what it waited.
_LATE_S, _LATE = 0.1, 0.5
#: One node in so many may be reserved at a time (but always one).
_SHARE = 8
#: Of the nodes that could hold it, so many with least missing are looked at closely.
_CLOSELY = 64


class _Plan(NamedTuple):
    """When a node could start a function if nothing else were started there."""

    start_s: float
    missing: float
    name: str
    node: Node
    free: dict[str, int]


class Reservation:
    """A node that is being cleared for the head of a queue, whoever that will be then."""

    __slots__ = ("_beside", "_clock", "_spare", "is_kept", "lapses_s", "node", "priority", "queue", "start_s")

    def __init__(
        self, clock: Reservations, queue: Queue, priority: float, plan: _Plan, is_kept: bool
    ) -> None:
        self.queue = queue
        #: Whether it is for the first in order, not for one that has waited too long.
        self.is_kept = is_kept
        #: The user priority of the head when it had waited too long.
        self.priority = priority
        self.node = plan.node
        #: When it is expected to start; infinity if nobody knows.
        self.start_s = plan.start_s
        #: When expectations have proved wrong if it has not started.
        self.lapses_s = plan.start_s + max(_LATE_S, _LATE * (plan.start_s - clock.now))
        self._clock = clock
        self._spare = plan.free
        _take(self._spare, queue.amounts)
        self._beside: dict[FunctionKey, Amounts] = {}

    def admits(self, other: Waiting) -> bool:
        """Whether a function may start here without delaying the one that has waited."""
        if other.queue is self.queue or other.priority > self.priority or self._ends_before(other):
            return True
        if self.is_kept and self.is_behind(other):
            return True
        return all(self._spare.get(name, 0) >= units for name, units in other.queue.shape.amounts)

    def is_behind(self, other: Waiting) -> bool:
        """Whether the one it is for stands behind another in the order."""
        standing = self.queue.head()
        return standing is None or other.place() < standing

    def function(self) -> FunctionKey:
        """The function that has waited too long."""
        standing = self.queue.head()
        assert standing is not None
        return standing[3].function

    def started(self, other: Waiting) -> None:
        """Note that another function has started here."""
        if not self._ends_before(other):
            self._beside[other.function] = other.queue.shape.amounts
            _take(self._spare, other.queue.shape.amounts)
        elif other.duration_s is not None:
            self.lapses_s = max(self.lapses_s, self._clock.now + other.duration_s + _LATE_S)

    def ended(self, other: Waiting) -> None:
        """Note that another function has ended here."""
        for name, units in self._beside.pop(other.function, ()):
            self._spare[name] += units

    def _ends_before(self, other: Waiting) -> bool:
        if other.duration_s is None or self.start_s == math.inf:
            return False
        limit_s = latest_end_s(self.start_s, other.duration_s) if self.is_kept else self.start_s
        return self._clock.now + other.duration_s <= limit_s


def latest_end_s(start_s: float, duration_s: float) -> float:
    """When a function must have ended that runs where a node is kept for one that could start then."""
    return start_s + GRACE_S + GRACE * duration_s


class Reservations:
    """Who has waited too long, and which nodes are being cleared for them."""

    def __init__(self, backlog: Backlog, floor_s: float = FLOOR_S, keep_from_s: float = KEEP_FROM_S) -> None:
        self._backlog = backlog
        self._floor_s = floor_s
        self._keep_from_s = keep_from_s
        #: The node that is kept for the first in order, and the head for which there is none.
        self._kept: Reservation | None = None
        self._hopeless: Waiting | None = None
        #: ``{node name: its reservation}``.
        self.active = backlog.reserved
        self.now = -math.inf
        #: How long functions take, the recent ones counting most; None before the first ended.
        self.typical_s: float | None = None
        self._next_review = -math.inf
        self._last_trickle = -math.inf

    def barring(self, head: Waiting) -> frozenset[str]:
        """The nodes on which a function must not start because of a reservation."""
        if not self.active:
            return _NONE
        return frozenset(name for name, r in self.active.items() if not r.admits(head))

    def learn(self, held_s: float) -> None:
        """Note how long a function took."""
        typical = self.typical_s
        self.typical_s = held_s if typical is None else typical + 0.1 * (held_s - typical)

    def patience_s(self, waiting: Waiting) -> float:
        """How long a function may be passed over."""
        return max(self._floor_s, PATIENCE * max(self.typical_s or 0.0, waiting.duration_s or 0.0))

    def drop(self, node: Node) -> None:
        """Let anybody use a node again."""
        if node.reservation is not None:
            del self.active[node.name]
            if node.reservation is self._kept:
                self._kept = None
            node.reservation = None
            self._backlog.ledger.freed[node.name] = node

    def settled(self, waiting: Waiting, node: Node) -> None:
        """Note that a function has been placed."""
        reservation = node.reservation
        if reservation is not None and reservation.queue is not waiting.queue:
            if reservation.is_kept and reservation.is_behind(waiting):
                self.drop(node)
            else:
                reservation.started(waiting)
        self.let_go(waiting.queue)

    def let_go(self, queue: Queue) -> None:
        """End the reservations for a queue: something of it has been placed."""
        if self.active:
            for reservation in list(self.active.values()):
                if reservation.queue is queue:
                    self.drop(reservation.node)

    def keep_for_first(self, queue: Queue, standing: Standing) -> None:
        """Before a queue is offered room: keep a node for the first that has none, if it stands before."""
        if self._backlog.longest_s < self._keep_from_s and self._kept is None:
            return
        first = self._backlog.first_blocked()
        if first is None or first is queue or first.key is None or not first.key < standing:
            return
        kept, head = self._kept, first.key[3]
        if kept is not None:
            if kept.queue is first:
                return
            self.drop(kept.node)
        if head is self._hopeless or head.duration_s is None or head.duration_s < self._keep_from_s:
            return
        if len(first.shape.holders) > _KEPT_OF or not self._reserve(first, self.now, is_kept=True):
            self._hopeless = head

    def look_again(self, waiting: Waiting) -> None:
        """Note that it has become known how long a function takes: it may fit in before another."""
        if self.active and waiting.queue.key is not None:
            self._backlog.refresh(waiting.queue)

    def deadline(self) -> float | None:
        """When it is time to see whether a node is kept in vain."""
        return None if self._kept is None else self._kept.lapses_s

    def review(self, now: float) -> None:
        """End reservations for which nobody waits; look for those who have waited too long."""
        kept = self._kept
        if kept is not None and kept.lapses_s <= now and kept.queue.count:
            # Those that run there take longer than was thought: nobody knows when they end.
            standing = kept.queue.head()
            assert standing is not None
            self._hopeless = standing[3]
            self.drop(kept.node)
        for reservation in list(self.active.values()):
            if not reservation.queue.count:
                self.drop(reservation.node)
        if now < self._next_review:
            return
        self._next_review = now + self._floor_s / 4
        if self._is_foreseen():
            return
        self._let_longest_go_first(now)
        room = max(1, len(self._backlog.ledger.nodes) // _SHARE) - len(self.active)
        for queue in self._passed_over(now):
            if room <= 0:
                break
            if self._reserve(queue, now):
                room -= 1

    def _is_foreseen(self) -> bool:
        """Whether there is one run alone, of which it is known how long functions take.

        Nobody is treated unfairly then: the run's order says what is urgent, to its own good.
        """
        longest = next(iter(self._backlog.waiting.values()), None)
        return len(self._backlog.runs) == 1 and longest is not None and longest.certain

    def _passed_over(self, now: float) -> Iterator[Queue]:
        reserved = {reservation.queue for reservation in self.active.values()}
        agendas = [self._backlog.anywhere, *self._backlog.at.values()]
        for queue in [queue for agenda in agendas for queue in agenda]:
            assert queue.key is not None
            if now - queue.served > self.patience_s(queue.key[3]) and queue not in reserved:
                yield queue

    def _let_longest_go_first(self, now: float) -> None:
        longest = next(iter(self._backlog.waiting.values()), None)
        if longest is None or longest.rank == math.inf:
            return
        time_s = TRICKLE * self.patience_s(longest)
        if now - longest.since > time_s and now - self._last_trickle > time_s:
            self._last_trickle = now
            longest.queue.advance(longest, math.inf)
            self._backlog.reposition(longest.queue)

    def _reserve(self, queue: Queue, now: float, is_kept: bool = False) -> bool:
        """Reserve a node for the head of a queue; False if there is none to reserve."""
        standing = queue.head()
        assert standing is not None
        if queue.scope.full or queue.scope.asks:
            return False
        backlog, shape = self._backlog, queue.shape
        tied = backlog.target(queue)
        nodes: Iterable[Node] = [tied] if tied is not None else shape.holders.values()
        if tied is None and backlog.is_tied(queue):
            return False
        usable = [n for n in nodes if n.offer and n.reservation is None and n.name in shape.holders]
        near = nsmallest(_CLOSELY, usable, key=lambda n: _missing(n, shape))
        plans = [plan for node in near if (plan := _plan(node, shape, now)) is not None]
        best = min(plans, key=lambda p: p[:3], default=None)
        if best is None or (is_kept and best.start_s == math.inf):
            return False
        reservation = Reservation(self, queue, standing[3].priority, best, is_kept)
        if is_kept:
            self._kept = reservation
        best.node.reservation = self.active[best.name] = reservation
        return True


_NONE: frozenset[str] = frozenset()


def _missing(node: Node, shape: Shape) -> float:
    """How much of the node has yet to be freed, in shares of what it has."""
    return sum(max(0, units - node.free.get(name, 0)) / node.total[name] for name, units in shape.amounts)


def _plan(node: Node, shape: Shape, now: float) -> _Plan | None:
    """When the node will have room, by what is known of those that run there."""
    missing = _missing(node, shape)
    free = dict(node.free)
    start_s = now
    for end_s, amounts in sorted(_ends(node, now)):
        if end_s > start_s and _covers(free, shape.amounts):
            break
        start_s = end_s
        for name, units in amounts:
            free[name] += units
    return _Plan(start_s, missing, node.name, node, free) if _covers(free, shape.amounts) else None


def _ends(node: Node, now: float) -> Iterator[tuple[float, Amounts]]:
    """When each claim on a node is expected to be returned: infinity if nobody knows."""
    for waiting in node.placed.values():
        if waiting.lane is None and not waiting.holds_nothing():
            end_s = max(now, waiting.placed_at + _duration_s(waiting))
            if waiting.relay is not None and waiting.relay.next is not None:
                end_s += _duration_s(waiting.relay.next)
            yield end_s, waiting.queue.shape.amounts
    for lane in node.lanes.values():
        for _ in range(lane.booked):
            yield now, lane.queue.shape.amounts


def _duration_s(waiting: Waiting) -> float:
    return math.inf if waiting.duration_s is None else waiting.duration_s


def _covers(free: dict[str, int], amounts: Amounts) -> bool:
    return all(free.get(name, 0) >= units for name, units in amounts)


def _take(free: dict[str, int], amounts: Amounts) -> None:
    for name, units in amounts:
        free[name] = free.get(name, 0) - units
