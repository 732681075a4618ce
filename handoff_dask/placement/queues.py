"""What waits: functions in queues, for each run one queue per demand."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from typing import NamedTuple, Protocol, TypeAlias

from handoff_dask.placement.collocation import Group
from handoff_dask.placement.demand import Demand, FunctionKey
from handoff_dask.placement.ledger import Node
from handoff_dask.placement.network import Datum
from handoff_dask.placement.prefetch_queue import PrefetchQueue
from handoff_dask.placement.requests import ResourceRequest
from handoff_dask.placement.runs import Run

#: By what waiting functions are ordered: ``(-priority, -rank, arrival, itself)``; arrivals differ,
#: so that the function itself is never compared.
OrderKey: TypeAlias = "tuple[float, float, int, ScheduledFunction]"


class TimedPrefetch:
    """A function that runs on a node, and the one that takes over its room."""

    __slots__ = ("is_over", "next", "node", "number", "runs")

    def __init__(self, node: Node, number: int, runs: ScheduledFunction) -> None:
        self.node = node
        #: Which of the node's prefetches it is; the numbers come after those of prefetch queues.
        self.number = number
        self.runs = runs
        #: The one that takes over, if it has been sent.
        self.next: ScheduledFunction | None = None
        self.is_over = False


class Delay(NamedTuple):
    """Why the head of a queue waits for a node that has its data, while another has room."""

    #: When it goes elsewhere, unless something changes.
    until_s: float
    #: What moving its data elsewhere takes, and after how many seconds it is expected to start at the
    #: node that it waits for; None if nobody knows.
    move_s: float
    wait_s: float | None


class Line(Protocol):
    """Priority queues of queues, one for each run (see :mod:`handoff_dask.placement.priority_queue`)."""

    #: The node it is about, if it is about one.
    name: str | None

    def __bool__(self) -> bool:
        """Whether some queue stands in it."""

    def __iter__(self) -> Iterator[Queue]:
        """The queues in it, the first in order first."""

    def add(self, queue: Queue, key: OrderKey) -> None:
        """Let a queue stand here, by the order key of its head."""

    def remove(self, queue: Queue) -> None:
        """Take a queue out."""


class ScheduledFunction:
    """A function from the moment it is ready until it has ended."""

    __slots__ = (
        "arrival",
        "certain",
        "data",
        "delayed_s",
        "devices",
        "duration_s",
        "frees",
        "function",
        "has_moved",
        "move_s",
        "node",
        "placed_at",
        "preferred_node",
        "prefetch_queue",
        "priority",
        "queue",
        "rank",
        "run",
        "since",
        "timed_prefetch",
        "told",
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
    ) -> None:
        self.function = function
        self.run = run
        self.queue = queue
        self.priority, self.rank, self.arrival = order
        #: When it became ready.
        self.since = since
        self.duration_s = duration_s
        #: What it takes that is so large that it matters where it is.
        self.data: tuple[Datum, ...] = ()
        #: Whether its data is at its home, or on its way there, since that has been chosen for it.
        self.has_moved = False
        #: When it was first delayed although a node had room, for a node that has its data.
        self.delayed_s: float | None = None
        #: Whether a Wait has been given for it.
        self.told = False
        #: Whether it still waits; its place in the queue's heap outlives that.
        self.waits = True
        #: Indices of its node's devices that it has.
        self.devices: tuple[int, ...] = ()
        #: Where it was placed, and when.
        self.node: Node | None = None
        self.placed_at = 0.0
        #: The prefetch queue that it was sent in, if any.
        self.prefetch_queue: PrefetchQueue | None = None
        #: The node that has most of its arguments, if that is known.
        self.preferred_node: str | None = None
        #: Seconds that moving its data to its node was expected to take when it was placed.
        self.move_s = 0.0
        #: Whether data can be dropped when it ends.
        self.frees = False
        #: Whether its duration is known for sure, and the largest rank of those that follow it.
        self.certain = False
        #: The timed prefetch that it is part of, if any.
        self.timed_prefetch: TimedPrefetch | None = None

    def order_key(self) -> OrderKey:
        """Its place in the order of functions."""
        return (-self.priority, -self.rank, self.arrival, self)

    def may_backfill_before(self, other: ScheduledFunction) -> bool:
        """Whether it may be admitted to a reserved node that does not admit another of its queue."""
        if self.order_key() < other.order_key():
            return True
        own_s, other_s = self.duration_s, other.duration_s
        return own_s is not None and (other_s is None or own_s < other_s)

    def prefetch_slot(self) -> tuple[int, int] | None:
        """The number and the slots of its prefetch queue or timed prefetch, if it is in one."""
        if self.timed_prefetch is not None:
            return self.timed_prefetch.number, 1
        return (
            None if self.prefetch_queue is None else (self.prefetch_queue.number, self.prefetch_queue.slots)
        )

    def holds_nothing(self) -> bool:
        """Whether it has been placed, but has yet to take over another's room."""
        return self.timed_prefetch is not None and self.timed_prefetch.next is self


class Queue:
    """Functions of one run and one demand that wait, the first in order at the head."""

    __slots__ = (
        "_dead",
        "_heap",
        "amounts",
        "blocked_in",
        "cause",
        "count",
        "declined",
        "delay",
        "delayed_s",
        "demand",
        "fresh",
        "generation",
        "group",
        "home",
        "key",
        "party",
        "pin",
        "placed",
        "prefetch_queues",
        "queue_group",
        "refused",
        "request",
        "served",
        "soft",
        "to_bind",
        "unplaceable",
    )

    def __init__(
        self,
        run: Run,
        demand: Demand,
        request: ResourceRequest,
        group: Group | None,
        to_bind: Group | None,
    ) -> None:
        self.queue_group = run.queue_group
        #: The run, as one who has a share.
        self.party = run.party
        self.demand = demand
        self.request = request
        self.amounts = request.amounts
        #: The group its functions belong to, and the one they need to have a node.
        self.group = group
        self.to_bind = to_bind
        #: Name or address of the only node that will do.
        self.pin = demand.pin if group is None or group.pin is None else group.pin
        #: Whether the pin is a wish of the user's strategy: void once that node is gone.
        self.soft = False
        #: The node that has most of its functions' data; None for functions whose data is no matter.
        self.home: str | None = None
        #: Why its head waits although a node has room.
        self.delay: Delay | None = None
        #: Since when nodes with room have been refused, without a break.
        self.delayed_s: float | None = None
        self._heap: list[OrderKey] = []
        self._dead = 0
        #: How many functions wait, and how many of it are placed.
        self.count = 0
        self.placed = 0
        #: Whether all nodes have to be looked at for its head.
        self.fresh = False
        #: The priority queue it stands in, once its head is known to fit nowhere, and under which key.
        self.blocked_in: Line | None = None
        self.key: OrderKey | None = None
        #: When its head was last placed, or it began to hold functions.
        self.served = 0.0
        #: Why its head waits, in a word.
        self.cause = ""
        #: Functions for which the user's strategy wanted none of the nodes that had room.
        self.declined: list[ScheduledFunction] = []
        #: Whether its head had room, but no permission.
        self.refused = False
        #: Whether no node there is could ever hold its functions; the generation counts the times.
        self.unplaceable = False
        self.generation = 0
        #: ``{node name: its prefetch queues there}``; empty again once they are.
        self.prefetch_queues: dict[str, list[PrefetchQueue]] = {}

    def is_idle(self) -> bool:
        """Whether nothing is known here that another queue of the same demand would not know."""
        return not (self.count or self.placed or self.unplaceable)

    @property
    def user_priority(self) -> float:
        """The user's priority of its head."""
        order_key = self.head()
        return 0.0 if order_key is None else order_key[3].priority

    @property
    def is_barred(self) -> bool:
        """Whether its head could start nowhere now.

        Its run is at its limit, something shared is short, or it is held back.
        """
        group = self.queue_group
        return (
            group.full
            or (bool(group.holding_back.waiting) and group.holding_back.holds(self))
            or (bool(self.request.shared) and self.request.short_of(self) is not None)
        )

    @property
    def is_held_back(self) -> bool:
        """Whether its head adds data, and enough of it waits for something scarce."""
        holding_back = self.queue_group.holding_back
        return bool(holding_back.waiting) and holding_back.holds(self)

    def push(self, scheduled: ScheduledFunction) -> None:
        """Let a function wait here."""
        if not self.count:
            self.served = scheduled.since
        self.count += 1
        heappush(self._heap, scheduled.order_key())

    def head(self) -> OrderKey | None:
        """The place of the first in order, or None if the queue is empty."""
        heap = self._heap
        while heap:
            order_key = heap[0]
            scheduled = order_key[3]
            if scheduled.waits and scheduled.rank == -order_key[1]:
                return order_key
            heappop(heap)
            self._dead -= 1
        return None

    def pop(self) -> ScheduledFunction:
        """Take the head out, which :meth:`head` has just shown; it waits no longer."""
        scheduled = heappop(self._heap)[3]
        scheduled.waits = False
        self.count -= 1
        return scheduled

    def further(self, count: int) -> ScheduledFunction | None:
        """One that waits behind about so many others; None if there is none."""
        for order_key in self._heap[count : count + 8]:
            if order_key[3].waits and order_key[3].rank == -order_key[1]:
                return order_key[3]
        return None

    def first_few(self, count: int) -> list[ScheduledFunction]:
        """Some of those that stand first, the head among them, in no particular order."""
        return [
            order_key[3]
            for order_key in self._heap[:count]
            if order_key[3].waits and order_key[3].rank == -order_key[1]
        ]

    def take(self, scheduled: ScheduledFunction) -> None:
        """Take out a function that is to be placed."""
        order_key = self.head()
        if order_key is not None and order_key[3] is scheduled:
            self.pop()
        else:
            self.drop(scheduled)

    def drop(self, scheduled: ScheduledFunction) -> None:
        """Take out a function wherever it stands."""
        scheduled.waits = False
        self.count -= 1
        self._bury()

    def take_all(self) -> list[ScheduledFunction]:
        """Take out everybody, for another queue."""
        everybody = self.in_order()
        self._heap.clear()
        self.declined.clear()
        self.count = self._dead = 0
        return everybody

    def advance(self, scheduled: ScheduledFunction, rank: float) -> None:
        """Give a waiting function another rank."""
        scheduled.rank = rank
        # One that is set aside is in no heap; it comes back with the rank that it has then.
        if scheduled not in self.declined:
            heappush(self._heap, scheduled.order_key())
            self._bury()

    def decline(self) -> None:
        """Set the head aside: the user's strategy wants none of the nodes for it now."""
        self.declined.append(heappop(self._heap)[3])

    def take_back_declined(self) -> None:
        """Have the user's strategy asked again for those that were set aside."""
        for scheduled in self.declined:
            if scheduled.waits:
                heappush(self._heap, scheduled.order_key())
        self.declined.clear()

    def rebuild(self) -> None:
        """Set up the heap anew, from those who wait; for when many ranks have changed."""
        alive = {order_key[3].arrival: order_key[3] for order_key in self._heap if order_key[3].waits}
        self._heap = [scheduled.order_key() for scheduled in alive.values()]
        heapify(self._heap)
        self._dead = 0

    def __iter__(self) -> Iterator[ScheduledFunction]:
        """Those who wait, in no particular order."""
        yield from (p[3] for p in self._heap if p[3].waits and p[3].rank == -p[1])
        yield from (scheduled for scheduled in self.declined if scheduled.waits)

    def in_order(self) -> list[ScheduledFunction]:
        """Those who wait, first in order first."""
        return sorted(self, key=lambda scheduled: scheduled.order_key()[:3])

    def _bury(self) -> None:
        # Withdrawn functions stay in the heap until they come up, or outnumber the living.
        self._dead += 1
        if self._dead > 64 and self._dead > self.count:
            self.rebuild()
