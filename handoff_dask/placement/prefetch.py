"""Prefetching short functions: they are sent to a node behind those that run there.

A driver needs a round trip to learn that a function has ended and to start the next.  Where
functions take less than that, a node would idle most of the time.  So functions of one queue that
are known to be short are sent to a node before there is room, as many as the node works off within
a round trip.  They form a *prefetch queue*: the node admits ``slots`` of them at a time, and the
prefetch queue claims just that, so the ledger stays exact and no node holds too much.

The slots of a prefetch queue may grow while it is open, never shrink.  A driver that lets each
function take ``1 / slots`` of its prefetch queue, by the slots it was sent with, is right at any time.

What takes longer is prefetched by time (:mod:`handoff_dask.placement.prefetch_timed`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import islice

from handoff_dask.placement.backlog import Backlog
from handoff_dask.placement.ledger import Node
from handoff_dask.placement.prefetch_queue import PrefetchQueue
from handoff_dask.placement.queues import OrderKey, Queue, ScheduledFunction
from handoff_dask.placement.shares import RunParty


class PrefetchQueues:
    """The prefetch queues of all nodes."""

    def __init__(self, backlog: Backlog, is_near: Callable[[ScheduledFunction, str], bool]) -> None:
        self._backlog = backlog
        #: Whether moving a function's data to a node is no matter.
        self._is_near = is_near
        self._settings = backlog.settings
        self.round_trip_s = backlog.settings.round_trip_s
        #: Queues for which it is worth looking whether more can be prefetched.
        self.due: dict[Queue, None] = {}

    def is_short(self, scheduled: ScheduledFunction) -> bool:
        """Whether a function may be prefetched, or have others prefetched behind it."""
        duration_s = scheduled.duration_s
        return (
            duration_s is not None
            and duration_s <= self.round_trip_s
            and not scheduled.queue.queue_group.asks_user
            # Nobody knows which devices will be free then.
            and not scheduled.queue.request.devices
        )

    def touch(self, queue: Queue) -> None:
        """Note that a queue has more to send, or its prefetch queues have less left."""
        if queue.prefetch_queues:
            self.due[queue] = None

    def book(self, scheduled: ScheduledFunction, node: Node) -> None:
        """Choose the prefetch queue of a function that is about to get room, if it should be in one."""
        queue, reservation = scheduled.queue, self._backlog.reserved.get(node.name)
        if not self.is_short(scheduled) or (reservation is not None and reservation.queue is not queue):
            return
        if scheduled.move_s > self._settings.transfer_floor_s + self._backlog.network.latency_s:
            # It holds its room while its data moves, so it is not short here.
            return
        prefetch_queues = queue.prefetch_queues.get(node.name, ())
        prefetch_queue = next((q for q in prefetch_queues if q.booked < q.slots), None)
        if prefetch_queue is None:
            # The last of its queue has nobody to follow it.
            if not queue.count and not prefetch_queues:
                return
            if len(node.prefetch_queues) < self._settings.prefetch_queues:
                prefetch_queue = self._open(queue, node)
            elif prefetch_queues:
                prefetch_queue = min(prefetch_queues, key=lambda prefetch_queue: prefetch_queue.slots)
                prefetch_queue.slots += 1
            else:
                return
        prefetch_queue.booked += 1
        scheduled.prefetch_queue = prefetch_queue
        prefetch_queue.add(scheduled.duration_s)
        self.due[queue] = None

    def end(self, scheduled: ScheduledFunction) -> bool:
        """Note that a function has ended; True if a claim is to be returned."""
        prefetch_queue = scheduled.prefetch_queue
        if prefetch_queue is None:
            return True
        prefetch_queue.outstanding -= 1
        prefetch_queue.expected_s -= scheduled.duration_s or 0.0
        if prefetch_queue.outstanding >= prefetch_queue.booked:
            if prefetch_queue.outstanding <= prefetch_queue.low and scheduled.queue.count:
                self.due[scheduled.queue] = None
            return False
        prefetch_queue.booked -= 1
        if not prefetch_queue.outstanding:
            self._close(scheduled.queue, prefetch_queue)
        return True

    def prefetch(self, sent: Callable[[ScheduledFunction, Node], None]) -> None:
        """Send what may be prefetched; ``sent`` is told of each function, which is in its queue then."""
        while self.due:
            queue, _ = self.due.popitem()
            bindable = queue.to_bind is None or queue.to_bind.can_be_bound()
            if queue.count and queue.prefetch_queues and bindable:
                self._fill(queue, sent)

    def _fill(self, queue: Queue, sent: Callable[[ScheduledFunction, Node], None]) -> None:
        all_open = [q for queues in queue.prefetch_queues.values() for q in queues if self._is_open(queue, q)]
        if not all_open:
            return
        before = {
            prefetch_queue.node: self._first_other(queue, prefetch_queue) for prefetch_queue in all_open
        }
        by_node = {prefetch_queue.node: prefetch_queue for prefetch_queue in all_open}
        # Neighbours in the order have more arguments in common than others, and more who take
        # their results.  So a prefetch queue is filled up to its share, the emptiest one first.
        left = deque(sorted(all_open, key=PrefetchQueue.fullness))
        slots = sum(prefetch_queue.slots for prefetch_queue in all_open)
        share = (queue.count + sum(prefetch_queue.outstanding for prefetch_queue in all_open)) / slots
        count = 0
        holding_back = queue.queue_group.holding_back
        while left and (order_key := queue.head()) is not None:
            scheduled, chosen = order_key[3], left[0]
            if not self.is_short(scheduled) or (holding_back.waiting and holding_back.holds(queue)):
                break
            if count % len(all_open) == 0:
                least = min(map(PrefetchQueue.fullness, all_open))
            preferred = by_node.get(scheduled.preferred_node or "")
            if preferred is not None and self._is_preferred(scheduled, preferred, least, before):
                chosen = preferred
            elif chosen.fullness() >= share or not self._may_follow(scheduled, chosen, before[chosen.node]):
                left.popleft()
                continue
            queue.pop()
            scheduled.prefetch_queue = chosen
            chosen.add(scheduled.duration_s)
            sent(scheduled, self._backlog.ledger.nodes[chosen.node])
            count += 1
        self._filled(queue, all_open)

    def _filled(self, queue: Queue, prefetch_queues: Sequence[PrefetchQueue]) -> None:
        for prefetch_queue in prefetch_queues:
            slots = prefetch_queue.slots
            prefetch_queue.low = slots + (prefetch_queue.outstanding - slots) // 2
        if queue.count:
            self._backlog.reposition(queue)
        else:
            self._backlog.rest(queue)

    def _is_preferred(
        self,
        scheduled: ScheduledFunction,
        prefetch_queue: PrefetchQueue,
        least: float,
        before: dict[str, OrderKey | None],
    ) -> bool:
        """Whether a function follows where most of its arguments are: not if that is much fuller."""
        most = self._settings.preferred_times * least + self._settings.preferred_more
        if prefetch_queue.fullness() > most:
            return False
        return self._may_follow(scheduled, prefetch_queue, before[prefetch_queue.node])

    def _may_follow(
        self, scheduled: ScheduledFunction, prefetch_queue: PrefetchQueue, goes_first: OrderKey | None
    ) -> bool:
        """Whether there is time for one more, and nobody who goes first could use the node."""
        if not self._has_time(prefetch_queue, scheduled):
            return False
        if scheduled.data and not self._is_near(scheduled, prefetch_queue.node):
            return False
        return goes_first is None or scheduled.order_key() < goes_first

    def _is_open(self, queue: Queue, prefetch_queue: PrefetchQueue) -> bool:
        if prefetch_queue.booked != prefetch_queue.slots or prefetch_queue.node in self._backlog.reserved:
            return False
        if any(r.free < 0 or r.kept_for not in (None, queue) for r, _ in queue.request.shared):
            return False
        return bool(self._backlog.ledger.nodes[prefetch_queue.node].offer)

    def _has_time(self, prefetch_queue: PrefetchQueue, scheduled: ScheduledFunction) -> bool:
        """Whether one function more can follow within a round trip."""
        duration_s = scheduled.duration_s or 0.0
        if prefetch_queue.outstanding >= prefetch_queue.slots * (1 + self._settings.prefetch_limit):
            return False
        # Sums of floats: a little more is not too much.
        limit_s = prefetch_queue.slots * (self.round_trip_s + duration_s) * (1 + 1e-9)
        return prefetch_queue.expected_s + duration_s <= limit_s

    def _first_other(self, queue: Queue, prefetch_queue: PrefetchQueue) -> OrderKey | None:
        """The order key of the first function that could use the node, and has no prefetch queue there.

        A function of another run counts if it would be its turn once one of the claims were returned.
        """
        name, party = prefetch_queue.node, queue.party
        found: OrderKey | None = None
        for line in self._lines_at(name, party):
            for other in islice(line, self._settings.prefetch_looks):
                if (
                    name in other.request.eligible
                    and name not in other.prefetch_queues
                    and not other.queue_group.full
                    and not (other.queue_group.holding_back.waiting and other.is_held_back)
                    and _may_get(other, prefetch_queue)
                ):
                    assert other.key is not None
                    found = other.key if found is None else min(found, other.key)
                    break
        if self._backlog.shares.rivals and self._is_rivals_turn(queue, prefetch_queue):
            head = queue.head()
            assert head is not None
            # Nothing goes before what goes first.
            return min(head, found) if found is not None else head
        return found

    def _lines_at(self, name: str, party: RunParty) -> tuple[Iterable[Queue], ...]:
        """Queues of a run that wait for a node or for any."""
        backlog = self._backlog
        line = backlog.at.get(name)
        near = (q for q in backlog.tables.near.get(name, ()) if q.blocked_in is not None and q.party is party)
        return backlog.anywhere.of_run(party), () if line is None else line.of_run(party), near

    def _is_rivals_turn(self, queue: Queue, prefetch_queue: PrefetchQueue) -> bool:
        """Whether a function of another run would get the room of one of these, if that were returned now."""
        shares, node = self._backlog.shares, self._backlog.ledger.nodes[prefetch_queue.node]
        room = dict(node.offer)
        for resource, units in queue.amounts:
            room[resource] = room.get(resource, 0) + units

        def fits(other: Queue) -> bool:
            if node.name not in other.request.eligible or other.queue_group.full:
                return False
            if not _may_get(other, prefetch_queue):
                return False
            return all(room.get(resource, 0) >= units for resource, units in other.amounts)

        if self.leaves_to_outside(queue):
            return True
        for party in islice(shares.in_order(), self._settings.prefetch_looks):
            if party is queue.party:
                break
            if shares.goes_before_without(party, queue.party, queue.request.claims):
                lines = self._lines_at(node.name, party)
                if any(
                    fits(other) for line in lines for other in islice(line, self._settings.prefetch_looks)
                ):
                    return True
        return False

    def leaves_to_outside(self, queue: Queue) -> bool:
        """Whether others wait, outside, for nodes that have been sent less, and it would be their turn."""
        backlog = self._backlog
        parties = [backlog.runs[run].party for run in backlog.outside]
        return any(
            party.waits_outside and backlog.shares.goes_before_without(party, queue.party, queue.amounts)
            for party in parties
        )

    def _open(self, queue: Queue, node: Node) -> PrefetchQueue:
        numbers = range(self._settings.prefetch_queues)
        number = next(n for n in numbers if n not in node.prefetch_queues)
        amounts = queue.request.amounts
        slots = self._slots(queue, node)
        prefetch_queue = PrefetchQueue(node.name, amounts, number, slots, queue.request.shared)
        node.prefetch_queues[number] = prefetch_queue
        queue.prefetch_queues.setdefault(node.name, []).append(prefetch_queue)
        return prefetch_queue

    def _slots(self, queue: Queue, node: Node) -> int:
        """How many functions of a queue have room on a node now; at least one has."""
        request, queue_group = queue.request, queue.queue_group
        slots = min(node.free[name] // units for name, units in request.amounts)
        slots = min([slots, *(resource.free // units for resource, units in request.shared)])
        if request.confinement is not None:
            slots = min(slots, request.confinement.count(node, request.confined))
        if queue_group.limit is not None:
            slots = min(slots, queue_group.limit - queue_group.claims)
        return min(slots, queue.count + 1)

    def _close(self, queue: Queue, prefetch_queue: PrefetchQueue) -> None:
        name = prefetch_queue.node
        del self._backlog.ledger.nodes[name].prefetch_queues[prefetch_queue.number]
        queue.prefetch_queues[name].remove(prefetch_queue)
        if not queue.prefetch_queues[name]:
            del queue.prefetch_queues[name]


def _may_get(queue: Queue, prefetch_queue: PrefetchQueue) -> bool:
    """Whether a queue lacks no shared resource, but for those that a prefetch queue would return."""
    returned = {resource for resource, _ in prefetch_queue.shared}
    return all(r in returned or r.admits(queue, units) for r, units in queue.request.shared)
