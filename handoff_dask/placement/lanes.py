"""Lanes: short functions are sent ahead, behind those that run.

A driver needs a round trip to learn that a function has ended and to start the next.  Where
functions take less than that, a node would idle most of the time.  So functions of one queue
that are known to be short are sent to a node before there is room, as many as the node works off
within a round trip.  They form a lane: the node admits ``slots`` of them at a time, and the lane
claims just that, so the ledger stays exact and no node holds too much.

The slots of a lane may grow while it is open, never shrink.  A driver that lets each function
take ``1 / slots`` of its lane, by the slots it was sent with, is right at any time.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import TYPE_CHECKING

from handoff_dask.placement.backlog import Backlog
from handoff_dask.placement.ledger import Node
from handoff_dask.placement.queues import Queue, Waiting

if TYPE_CHECKING:
    from collections.abc import Callable

    from handoff_dask.placement.queues import Place as Standing

#: So many queues that go first are looked at for one that could use the node.
_LOOK_AHEAD = 64
#: A function follows in the lane where most of its arguments are unless that holds more than so
#: many times as many functions per slot, and so many more, as the emptiest one.
_TIMES, _FEW = 2.0, 4.0


class Lane:
    """Functions of one queue that follow each other on one node."""

    __slots__ = ("booked", "expected_s", "low", "node", "number", "outstanding", "queue", "slots")

    def __init__(self, node: Node, queue: Queue, number: int, slots: int) -> None:
        self.node = node
        self.queue = queue
        #: Which of the node's lanes it is.
        self.number = number
        #: How many of its functions run at once.
        self.slots = slots
        #: Functions in it.
        self.outstanding = 0
        #: How many of them the ledger has booked: no more than slots.
        self.booked = 0
        #: How long they take together, as far as expected.
        self.expected_s = 0.0
        #: With so many functions left it is filled up again.
        self.low = slots

    def add(self, waiting: Waiting) -> None:
        """Let a function follow."""
        waiting.lane = self
        self.outstanding += 1
        self.expected_s += waiting.duration_s or 0.0

    def fullness(self) -> float:
        """Functions per slot."""
        return self.outstanding / self.slots


class Lanes:
    """The lanes of all nodes."""

    def __init__(self, backlog: Backlog, round_trip_s: float, ahead_limit: int, lanes_per_node: int) -> None:
        self._backlog = backlog
        self.round_trip_s = round_trip_s
        self._ahead_limit = ahead_limit
        self._lanes_per_node = lanes_per_node
        #: Queues for which it is worth looking whether more can be sent ahead.
        self.due: dict[Queue, None] = {}

    def is_short(self, waiting: Waiting) -> bool:
        """Whether a function may be sent ahead, or let others follow it."""
        duration_s = waiting.duration_s
        return duration_s is not None and duration_s <= self.round_trip_s and not waiting.queue.scope.asks

    def touch(self, queue: Queue) -> None:
        """Note that a queue has more to send, or its lanes have less left."""
        if queue.lanes:
            self.due[queue] = None

    def book(self, waiting: Waiting, node: Node) -> None:
        """Choose the lane of a function that is about to get room, if it should be in one."""
        queue, reservation = waiting.queue, node.reservation
        if not self.is_short(waiting) or (reservation is not None and reservation.queue is not queue):
            return
        lanes = queue.lanes.get(node.name, ())
        lane = next((lane for lane in lanes if lane.booked < lane.slots), None)
        if lane is None:
            # The last of its queue has nobody to follow it.
            if not queue.count and not lanes:
                return
            if len(node.lanes) < self._lanes_per_node:
                lane = self._open(queue, node)
            elif lanes:
                lane = min(lanes, key=lambda lane: lane.slots)
                lane.slots += 1
            else:
                return
        lane.booked += 1
        lane.add(waiting)
        self.due[queue] = None

    def end(self, waiting: Waiting) -> bool:
        """Note that a function has ended; True if a claim is to be returned."""
        lane = waiting.lane
        if lane is None:
            return True
        lane.outstanding -= 1
        lane.expected_s -= waiting.duration_s or 0.0
        if lane.outstanding >= lane.booked:
            if lane.outstanding <= lane.low and lane.queue.count:
                self.due[lane.queue] = None
            return False
        lane.booked -= 1
        if not lane.outstanding:
            self._close(lane)
        return True

    def send_ahead(self, follow: Callable[[Waiting, Lane], None]) -> None:
        """Send what may go ahead; ``follow`` is told of each function, which is in its lane then."""
        while self.due:
            queue, _ = self.due.popitem()
            bindable = queue.to_bind is None or queue.to_bind.can_be_bound()
            if queue.count and queue.lanes and bindable:
                self._fill(queue, follow)

    def _fill(self, queue: Queue, follow: Callable[[Waiting, Lane], None]) -> None:
        lanes = [lane for lanes in queue.lanes.values() for lane in lanes if self._is_open(lane)]
        if not lanes:
            return
        before = {lane.node.name: self._first_other(lane) for lane in lanes}
        by_node = {lane.node.name: lane for lane in lanes}
        # Neighbours in the order have more arguments in common than others, and more who take
        # their results.  So a lane is filled up to its share, the emptiest one first.
        left = deque(sorted(lanes, key=Lane.fullness))
        slots = sum(lane.slots for lane in lanes)
        share = (queue.count + sum(lane.outstanding for lane in lanes)) / slots
        sent = 0
        while left and (standing := queue.head()) is not None:
            waiting, lane = standing[3], left[0]
            if not self.is_short(waiting):
                break
            if sent % len(lanes) == 0:
                least = min(map(Lane.fullness, lanes))
            home = None if waiting.home is None else by_node.get(waiting.home)
            at_home = home is not None and home.fullness() <= _TIMES * least + _FEW
            if home is not None and at_home and self._may_follow(waiting, home, before[home.node.name]):
                lane = home
            elif lane.fullness() >= share or not self._may_follow(waiting, lane, before[lane.node.name]):
                left.popleft()
                continue
            queue.pop()
            lane.add(waiting)
            follow(waiting, lane)
            sent += 1
        for lane in lanes:
            lane.low = lane.slots + (lane.outstanding - lane.slots) // 2
        if queue.count:
            self._backlog.reposition(queue)
        else:
            self._backlog.rest(queue)

    def _may_follow(self, waiting: Waiting, lane: Lane, goes_first: Standing | None) -> bool:
        """Whether there is time for one more in a lane, and nobody who goes first could use the node."""
        return self._has_time(lane, waiting) and (goes_first is None or waiting.place() < goes_first)

    def _is_open(self, lane: Lane) -> bool:
        node = lane.node
        return lane.booked == lane.slots and node.reservation is None and bool(node.offer)

    def _has_time(self, lane: Lane, waiting: Waiting) -> bool:
        """Whether one function more can follow within a round trip."""
        duration_s = waiting.duration_s or 0.0
        if lane.outstanding >= lane.slots * (1 + self._ahead_limit):
            return False
        # Sums of floats: a little more is not too much.
        limit_s = lane.slots * (self.round_trip_s + duration_s) * (1 + 1e-9)
        return lane.expected_s + duration_s <= limit_s

    def _first_other(self, lane: Lane) -> Standing | None:
        """Where the first function stands that could use the node, and has no lane there."""
        backlog, name = self._backlog, lane.node.name
        found: Standing | None = None
        for agenda in (backlog.anywhere, backlog.at.get(name, ())):
            for queue in islice(agenda, _LOOK_AHEAD):
                if name in queue.shape.holders and name not in queue.lanes and not queue.scope.full:
                    assert queue.key is not None
                    found = queue.key if found is None else min(found, queue.key)
                    break
        return found

    def _open(self, queue: Queue, node: Node) -> Lane:
        number = next(n for n in range(self._lanes_per_node) if n not in node.lanes)
        lane = Lane(node, queue, number, self._slots(queue, node))
        node.lanes[number] = lane
        queue.lanes.setdefault(node.name, []).append(lane)
        return lane

    def _slots(self, queue: Queue, node: Node) -> int:
        """How many functions of a queue have room on a node now; at least one has."""
        shape, scope = queue.shape, queue.scope
        slots = min(node.free[name] // units for name, units in shape.amounts)
        if shape.confinement is not None:
            slots = min(slots, shape.confinement.count(node, shape.amounts))
        if scope.limit is not None:
            slots = min(slots, scope.limit - scope.claims)
        return min(slots, queue.count + 1)

    def _close(self, lane: Lane) -> None:
        del lane.node.lanes[lane.number]
        lanes = lane.queue.lanes[lane.node.name]
        lanes.remove(lane)
        if not lanes:
            del lane.queue.lanes[lane.node.name]
