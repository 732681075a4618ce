"""What waits: functions in queues, one queue per demand, and queues in the order of their heads."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, TypeAlias

from handoff_dask.placement.events import Demand, FunctionKey

if TYPE_CHECKING:
    from handoff_dask.placement.collocation import Group
    from handoff_dask.placement.lanes import Lane
    from handoff_dask.placement.ledger import Amounts, Node
    from handoff_dask.placement.runs import Run, Scope
    from handoff_dask.placement.shapes import Shape
    from handoff_dask.placement.successors import Relay

#: Where a waiting function stands: ``(-priority, -rank, arrival, itself)``; arrivals differ, so
#: that the function itself is never compared.
Place: TypeAlias = "tuple[float, float, int, Waiting]"

#: Queues in one block of an agenda, at most.
_BLOCK = 16


class Waiting:
    """A function from the moment it is ready until it has ended."""

    __slots__ = (
        "arrival",
        "certain",
        "duration_s",
        "function",
        "home",
        "lane",
        "node",
        "placed_at",
        "priority",
        "queue",
        "rank",
        "relay",
        "run",
        "since",
        "told",
        "transfer_s",
        "waits",
    )

    def __init__(
        self,
        function: FunctionKey,
        run: Run,
        queue: Queue,
        order: tuple[float, float, int],
        since: float,
        duration_s: float | None,
        transfer_s: Mapping[str, float],
    ) -> None:
        self.function = function
        self.run = run
        self.queue = queue
        self.priority, self.rank, self.arrival = order
        #: When it became ready.
        self.since = since
        self.duration_s = duration_s
        self.transfer_s = transfer_s
        #: Whether a Wait has been given for it.
        self.told = False
        #: Whether it still waits; its place in the queue's heap outlives that.
        self.waits = True
        #: Where it was placed, and when.
        self.node: Node | None = None
        self.placed_at = 0.0
        #: The lane that it was sent in, if any.
        self.lane: Lane | None = None
        #: The node that has most of its arguments, if that is known.
        self.home: str | None = None
        #: Whether its duration is known for sure, and the largest rank of those that follow it.
        self.certain = False
        #: The relay that it is part of, if any.
        self.relay: Relay | None = None

    def place(self) -> Place:
        """Its place in the order of functions."""
        return (-self.priority, -self.rank, self.arrival, self)

    def may_slip_in_before(self, other: Waiting) -> bool:
        """Whether it may be admitted to a reserved node that does not admit another of its queue."""
        if self.place() < other.place():
            return True
        own_s, other_s = self.duration_s, other.duration_s
        return own_s is not None and (other_s is None or own_s < other_s)

    def place_in_lane(self) -> tuple[int, int] | None:
        """The number and the slots of its lane or relay, if it is in one."""
        if self.relay is not None:
            return self.relay.number, 1
        return None if self.lane is None else (self.lane.number, self.lane.slots)

    def holds_nothing(self) -> bool:
        """Whether it has been placed, but has yet to take over another's room."""
        return self.relay is not None and self.relay.next is self


class Queue:
    """Functions of one demand that wait, the first in order at the head."""

    __slots__ = (
        "_dead",
        "_heap",
        "agenda",
        "amounts",
        "cause",
        "count",
        "declined",
        "demand",
        "epoch",
        "fresh",
        "group",
        "key",
        "lanes",
        "orphaned",
        "pin",
        "refused",
        "scope",
        "served",
        "shape",
        "soft",
        "to_bind",
    )

    def __init__(
        self, scope: Scope, demand: Demand, shape: Shape, group: Group | None, to_bind: Group | None
    ) -> None:
        self.scope = scope
        self.demand = demand
        self.shape = shape
        self.amounts = shape.amounts
        #: The group its functions belong to, and the one they need to have a node.
        self.group = group
        self.to_bind = to_bind
        #: Name or address of the only node that will do.
        self.pin = demand.pin if group is None or group.pin is None else group.pin
        #: Whether the pin is a wish of the user's strategy: void once that node is gone.
        self.soft = False
        self._heap: list[Place] = []
        self._dead = 0
        #: How many functions wait.
        self.count = 0
        #: Whether all nodes have to be looked at for its head.
        self.fresh = False
        #: The agenda it stands in, once its head is known to fit nowhere, and under which key.
        self.agenda: Agenda | None = None
        self.key: Place | None = None
        #: When its head was last placed, or it began to hold functions.
        self.served = 0.0
        #: Why its head waits, in a word.
        self.cause = ""
        #: Functions for which the user's strategy wanted none of the nodes that had room.
        self.declined: list[Waiting] = []
        #: Whether its head had room, but no permission.
        self.refused = False
        #: Whether no node there is could ever hold its functions; the epoch counts the times.
        self.orphaned = False
        self.epoch = 0
        #: ``{node name: its lanes there}``; empty again once they are.
        self.lanes: dict[str, list[Lane]] = {}

    def push(self, waiting: Waiting) -> None:
        """Let a function wait here."""
        if not self.count:
            self.served = waiting.since
        self.count += 1
        heappush(self._heap, waiting.place())

    def head(self) -> Place | None:
        """The place of the first in order, or None if the queue is empty."""
        heap = self._heap
        while heap:
            place = heap[0]
            waiting = place[3]
            if waiting.waits and waiting.rank == -place[1]:
                return place
            heappop(heap)
            self._dead -= 1
        return None

    def pop(self) -> Waiting:
        """Take the head out, which :meth:`head` has just shown; it waits no longer."""
        waiting = heappop(self._heap)[3]
        waiting.waits = False
        self.count -= 1
        return waiting

    def first_few(self, count: int) -> list[Waiting]:
        """Some of those that stand first, the head among them, in no particular order."""
        return [place[3] for place in self._heap[:count] if place[3].waits and place[3].rank == -place[1]]

    def take(self, waiting: Waiting) -> None:
        """Take out a function that is to be placed."""
        standing = self.head()
        if standing is not None and standing[3] is waiting:
            self.pop()
        else:
            self.drop(waiting)

    def drop(self, waiting: Waiting) -> None:
        """Take out a function wherever it stands."""
        waiting.waits = False
        self.count -= 1
        self._bury()

    def take_all(self) -> list[Waiting]:
        """Take out everybody, for another queue."""
        everybody = self.in_order()
        self._heap.clear()
        self.declined.clear()
        self.count = self._dead = 0
        return everybody

    def advance(self, waiting: Waiting, rank: float) -> None:
        """Give a waiting function another rank."""
        waiting.rank = rank
        # One that is set aside is in no heap; it comes back with the rank that it has then.
        if waiting not in self.declined:
            heappush(self._heap, waiting.place())
            self._bury()

    def decline(self) -> None:
        """Set the head aside: the user's strategy wants none of the nodes for it now."""
        self.declined.append(heappop(self._heap)[3])

    def take_back_declined(self) -> None:
        """Have the user's strategy asked again for those that were set aside."""
        for waiting in self.declined:
            if waiting.waits:
                heappush(self._heap, waiting.place())
        self.declined.clear()

    def rebuild(self) -> None:
        """Set up the heap anew, from those who wait; for when many ranks have changed."""
        alive = {place[3].arrival: place[3] for place in self._heap if place[3].waits}
        self._heap = [waiting.place() for waiting in alive.values()]
        heapify(self._heap)
        self._dead = 0

    def __iter__(self) -> Iterator[Waiting]:
        """Those who wait, in no particular order."""
        yield from (p[3] for p in self._heap if p[3].waits and p[3].rank == -p[1])
        yield from (waiting for waiting in self.declined if waiting.waits)

    def in_order(self) -> list[Waiting]:
        """Those who wait, first in order first."""
        return sorted(self, key=lambda waiting: waiting.place()[:3])

    def _bury(self) -> None:
        # Withdrawn functions stay in the heap until they come up, or outnumber the living.
        self._dead += 1
        if self._dead > 64 and self._dead > self.count:
            self.rebuild()


class _Block:
    __slots__ = ("keys", "least", "queues")

    def __init__(self, keys: list[Place], queues: list[Queue]) -> None:
        self.keys = keys
        self.queues = queues
        self.least: Amounts = ()
        self.measure()

    def measure(self) -> None:
        """Find what each of the queues asks for at least."""
        least = dict(self.queues[0].shape.amounts)
        for queue in self.queues[1:]:
            asked = queue.shape.asked
            for name in [n for n in least if least[n] > asked.get(n, 0)]:
                least[name] = asked.get(name, 0)
        self.least = tuple((n, u) for n, u in least.items() if u)


class Agenda:
    """Queues whose heads wait for room, in the order of their heads.

    Kept in blocks.  Each block knows the least that any of its queues asks for, so a node with
    little room passes over whole blocks, and a full one over all.
    """

    __slots__ = ("_blocks", "name")

    def __init__(self, name: str | None = None) -> None:
        #: The node it is about, if it is about one.
        self.name = name
        self._blocks: list[_Block] = []

    def __iter__(self) -> Iterator[Queue]:
        for block in self._blocks:
            yield from block.queues

    def __bool__(self) -> bool:
        return bool(self._blocks)

    def first(self) -> Queue | None:
        """The queue that stands first."""
        return self._blocks[0].queues[0] if self._blocks else None

    def add(self, queue: Queue, key: Place) -> None:
        """Let a queue stand here, by the place of its head."""
        queue.agenda, queue.key = self, key
        if not self._blocks:
            self._blocks.append(_Block([key], [queue]))
            return
        number = self._number(key)
        block = self._blocks[number]
        at = bisect_left(block.keys, key)
        block.keys.insert(at, key)
        block.queues.insert(at, queue)
        asked = queue.shape.asked
        for name, units in block.least:
            if asked.get(name, 0) < units:
                block.measure()
                break
        if len(block.keys) > 2 * _BLOCK:
            self._blocks.insert(number + 1, _Block(block.keys[_BLOCK:], block.queues[_BLOCK:]))
            del block.keys[_BLOCK:], block.queues[_BLOCK:]
            block.measure()

    def remove(self, queue: Queue) -> None:
        """Take a queue out."""
        assert queue.key is not None
        number = self._number(queue.key)
        block = self._blocks[number]
        at = bisect_left(block.keys, queue.key)
        del block.keys[at], block.queues[at]
        queue.agenda = queue.key = None
        if not block.keys:
            del self._blocks[number]

    def first_fit(self, node: Node, after: Place | None = None) -> Queue | None:
        """The first queue, behind a place in the order, for whose head the node has room."""
        name, offer = node.name, node.offer
        number = 0 if after is None else self._number(after) if self._blocks else 0
        for block in self._blocks[number:]:
            if not node.has_room(block.least):
                continue
            start = 0 if after is None else bisect_right(block.keys, after)
            for queue in block.queues[start:] if start else block.queues:
                # Shape.fits, written out: this is where a saturated cluster spends its time.
                for resource, units in queue.amounts:
                    if offer.get(resource, 0) < units:
                        break
                else:
                    shape = queue.shape
                    if name in shape.holders and (shape.confinement is None or shape.fits(node)):
                        return queue
            # What was asked least may have gone: do not come here in vain again.
            block.measure()
        return None

    def _number(self, key: Place) -> int:
        """The block in which a key stands or would stand."""
        low, high = 0, len(self._blocks) - 1
        while low < high:
            middle = (low + high + 1) // 2
            if self._blocks[middle].keys[0] <= key:
                low = middle
            else:
                high = middle - 1
        return low
