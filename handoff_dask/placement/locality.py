"""Data locality: functions go to their data, or wait for its node, unless moving it takes less time.

It is *delay scheduling* (Zaharia et al., EuroSys 2010) with expected times in place of fixed ones.  A
function whose data is large waits in a queue with others whose data is at the same node, its *home*.
With its head and the nodes that have room, it is decided:

1. Of the nodes with room, those stay to which moving the head's data takes least, within the transfer
   floor.  The strategy decides among them.
2. If that move takes more than the floor, and a busy node that has the data is expected to have room
   before the move would be over, the head waits for that node: it is *delayed*.  Where nobody knows how
   long functions take, it waits as long as the move would take.  A delay is no longer than the move that
   it saves, unless something changes: when a function begins at its home, what is left of the wait
   is compared with the move anew, for a few times as long as the move.
3. When the head is delayed, one further behind may still go: as many wait before it at the home that its
   own wait would take longer than its move.
4. A function goes to a freed node that is not near its data only if none of equal rank is near.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from heapq import heappop, heappush
from itertools import islice

from handoff_dask.placement.backlog import Backlog
from handoff_dask.placement.choosing import Chooser
from handoff_dask.placement.events import FunctionReady
from handoff_dask.placement.expected_room import room_at
from handoff_dask.placement.ledger import Node
from handoff_dask.placement.network import Datum
from handoff_dask.placement.queues import Delay, OrderKey, Queue, ScheduledFunction
from handoff_dask.placement.requests import ResourceRequest
from handoff_dask.placement.runs import Run
from handoff_dask.placement.shares import RunParty

#: Sums of floats: what is due this much later is due now.
_EVEN_S = 1e-9

#: A function, the node it goes to, and how many nodes it could have gone to.
Choice = tuple[ScheduledFunction, Node, int]


class Locality:
    """Decides where functions go whose data is so large that it matters where it is."""

    def __init__(self, backlog: Backlog, chooser: Chooser) -> None:
        self._backlog = backlog
        self._network = backlog.network
        self._settings = backlog.settings
        self._chooser = chooser
        self._floor_s = backlog.settings.transfer_floor_s
        #: Nodes for which a head was passed over in favour of an equal one that is near its data.
        self.yielded: dict[str, Node] = {}
        #: Whether heads yield to equals.
        self._yields = True
        #: ``(when, number, queue, its delay)``; void once the queue has another.
        self._due: list[tuple[float, int, Queue, Delay]] = []
        self._number = 0
        #: ``{node name: when something began there}``, of nodes near which functions wait.
        self._begun_s: dict[str, float] = {}
        #: ``{(node name, request): (the node's version, when it has room)}``.
        self._rooms: dict[tuple[str, ResourceRequest], tuple[int, float | None]] = {}

    # When functions become ready

    def data_of(self, event: FunctionReady) -> tuple[Datum, ...]:
        """The data that a function takes, if it matters where that is."""
        data = self._network.refer(event.arguments)
        if self._network.alone_s(data) < self._floor_s:
            self._network.release(data)
            return ()
        return data

    def home_of(self, run: Run, event: FunctionReady, data: tuple[Datum, ...]) -> str | None:
        """The node that has most of a function's data; of several the one near which fewest wait.

        None for a function that has no choice, or whose choice is a user's.
        """
        demand = event.demand
        if demand.pin is not None or demand.group is not None or demand.binds is not None:
            return None
        if run.queue_group.asks_user:
            return None
        eligible = self._backlog.tables.request_of(run, demand).eligible
        held = self._network.held(data)
        most_bytes = max((count for name, count in held.items() if name in eligible), default=0)
        if not most_bytes:
            return None
        least = most_bytes - self._floor_s * self._network.bandwidth
        most = [name for name, count in held.items() if count >= least and name in eligible]
        if len(most) == 1:
            return most[0]
        return min(most, key=lambda name: (name != event.preferred_node, self._waiting_near(name), name))

    def _waiting_near(self, name: str) -> int:
        return sum(queue.count for queue in self._backlog.tables.near.get(name, ()))

    # Which function, and where

    def choose(self, queue: Queue, freed: Node | None = None) -> Choice | None:
        """The function of a queue that goes next, and its node; None if none goes.

        The queue knows afterwards whether its head is delayed.
        """
        queue.delay = None
        head = _head(queue)
        nodes = self._with_room(queue, head, freed)
        if not nodes:
            queue.delayed_s = None
            return None
        if head.has_moved:
            # Its data is at its home, or on its way there: to any other node it would move once more.
            home = next((node for node in nodes if node.name == queue.home), None)
            if home is not None:
                return head, home, len(nodes)
        moves = {node.name: self._network.move_s(head.data, node.name) for node in nodes}
        least_s = min(moves.values())
        if least_s > self._floor_s:
            delay = self._delay(queue, head, moves, least_s)
            if delay is not None:
                self._note(queue, delay)
                return self._further(queue, nodes, delay)
            nodes = self._without_equals(queue, head, nodes)
            if not nodes:
                return None
            least_s = min(moves[node.name] for node in nodes)
        return head, self._best(queue, head, nodes, moves, least_s), len(moves)

    def first_for(self, node: Node, passed: Mapping[RunParty, OrderKey]) -> Queue | None:
        """The queue that a freed node is offered to next, behind a place in the order of each run.

        Of those whose data is elsewhere, it passes over a few whose heads clearly had better wait.
        """
        near, line = self._first_near(node, passed), self._backlog.with_data
        if near is None or near.key is None or not self._yields:
            return line.first_fit(node, passed)
        behind = dict(passed)
        for _ in range(self._settings.data_tries):
            queue = line.first_fit(node, behind)
            if queue is None or queue.key is None or not self._backlog.goes_before(queue.key, near.key):
                break
            if not self._stays(queue, node):
                return queue
            behind[queue.party] = queue.key
        return near

    def _first_near(self, node: Node, passed: Mapping[RunParty, OrderKey]) -> Queue | None:
        """The first queue near a node whose head could start there now."""
        found: Queue | None = None
        for queue in self._backlog.tables.near.get(node.name, ()):
            key, behind = queue.key, passed.get(queue.party)
            is_next = key is not None and (behind is None or key > behind)
            if is_next and self._chooser.admits(queue, _head(queue), node):
                found = self._backlog.earlier(found, queue)
        return found

    def _stays(self, queue: Queue, node: Node) -> bool:
        """Whether a head waits rather than go to a freed node that has others to run; a short look.

        It is clear if its data is not on the node, it has not waited long, and its home is expected to have
        room soon.
        """
        head, home = _head(queue), queue.home
        if home == node.name:
            return False
        move_s = self._network.missing_s(head.data, node.name)
        if move_s <= self._floor_s:
            return False
        place = queue.request.eligible.get(home or "")
        room_s = None if place is None else self._room_at(place, queue.request)
        now = self._backlog.clock.now
        if room_s is None or room_s - now >= move_s or now + _EVEN_S >= self._until_s(head, move_s, True):
            return False
        self.yielded[node.name] = node
        return True

    def _until_s(self, head: ScheduledFunction, move_s: float, is_known: bool) -> float:
        """Until when a head waits at most rather than have its data moved in so many seconds.

        ``is_known`` says whether it is expected to start at its home before.
        """
        queue = head.queue
        if queue.delayed_s is None:
            return self._backlog.clock.now + move_s
        since_s = max(queue.delayed_s, head.since)
        if not is_known:
            return since_s + move_s
        first_s = since_s if head.delayed_s is None else head.delayed_s
        begun_s = self._begun_s.get(queue.home or "", since_s)
        return min(max(since_s, begun_s) + move_s, first_s + self._settings.data_patience * move_s)

    def has_waiting(self, node: Node) -> bool:
        """Whether some function waits whose data is on a node."""
        return any(queue.count for queue in self._backlog.tables.near.get(node.name, ()))

    def goes(self, queue: Queue, node: Node) -> bool:
        """Whether the head of a queue would go to a node that has room, and nothing else has."""
        head = _head(queue)
        move_s = self._network.move_s(head.data, node.name)
        if move_s <= self._floor_s:
            return True
        if self._delay(queue, head, {node.name: move_s}, move_s) is not None:
            return False
        near = self._backlog.tables.near.get(node.name, ())
        return not any(self._is_equal(head, other, node) for other in near)

    def is_near(self, scheduled: ScheduledFunction, name: str) -> bool:
        """Whether moving a function's data to a node is no matter, but for what a message takes."""
        data, network = scheduled.data, self._network
        return not data or network.move_s(data, name) <= self._floor_s + network.latency_s

    def _best(
        self,
        queue: Queue,
        head: ScheduledFunction,
        nodes: list[Node],
        moves: dict[str, float],
        least_s: float,
    ) -> Node:
        """The strategy's choice among the nodes to which the move takes least."""
        strategy = queue.queue_group.strategy
        slack_s = 0.0 if strategy.heeds_transfer else self._floor_s
        near = [node for node in nodes if moves[node.name] <= least_s + slack_s]
        return near[0] if len(near) == 1 else self._chooser.best_of(queue, head, near)

    def _with_room(self, queue: Queue, head: ScheduledFunction, freed: Node | None) -> list[Node]:
        """Nodes where a function may start now: all of a few; of many those that have data, and the best."""
        eligible, looks, admits = queue.request.eligible, self._settings.data_looks, self._chooser.admits
        if len(eligible) <= 2 * looks:
            return [n for n in eligible.values() if n.has_room(queue.amounts) and admits(queue, head, n)]
        names = dict.fromkeys(name for datum in head.data for name in islice(datum.places, looks))
        some = {name: eligible[name] for name in names if name in eligible}
        best, _ = self._chooser.choose(queue, head)
        for node in (best, freed):
            if node is not None and node.name in eligible:
                some[node.name] = node
        return [node for node in some.values() if admits(queue, head, node)]

    # Delays

    def _delay(
        self, queue: Queue, head: ScheduledFunction, moves: dict[str, float], least_s: float
    ) -> Delay | None:
        """The delay of a head that had better wait than go where its data moves in so many seconds."""
        now = self._backlog.clock.now
        if now + _EVEN_S >= self._until_s(head, least_s, True):
            return None
        wait_s = self._wait_s(queue, head, moves)
        if wait_s is not None and wait_s >= least_s:
            return None
        until_s = self._until_s(head, least_s, wait_s is not None)
        if now + _EVEN_S >= until_s:
            return None
        return Delay(until_s, least_s, wait_s)

    def _wait_s(self, queue: Queue, head: ScheduledFunction, moves: dict[str, float]) -> float | None:
        """Seconds until a function could start at a busy node that has its data; None if nobody knows."""
        network, eligible = self._network, queue.request.eligible
        least_s: float = math.inf
        is_unknown = False
        for name in self._busy_nodes(queue, head):
            node = eligible.get(name)
            if node is None or name in moves:
                continue
            room_s = self._room_at(node, queue.request)
            if room_s is None:
                is_unknown = True
                continue
            before_s = self._before_s(queue, head, node)
            wait_s = max(0.0, room_s - self._backlog.clock.now) + before_s
            least_s = min(least_s, max(wait_s, network.move_s(head.data, name)))
        return None if is_unknown and least_s == math.inf else least_s

    def _busy_nodes(self, queue: Queue, head: ScheduledFunction) -> Iterable[str]:
        """Nodes that a function may wait for: its queue's home, and a few that have its largest data."""
        assert queue.home is not None
        largest = max(head.data, key=lambda datum: datum.nbytes)
        return dict.fromkeys([queue.home, *islice(largest.places, 3)])

    def _before_s(self, queue: Queue, head: ScheduledFunction, node: Node) -> float:
        """Seconds for which functions hold a node that wait for it, too, and go before."""
        total_s = 0.0
        for other in self._backlog.tables.near.get(node.name, ()):
            if other is not queue and other.count and other.key is not None and other.key[3] is not head:
                first = other.key[3]
                if self._backlog.goes_before(other.key, head.order_key()):
                    total_s += other.count * (first.duration_s or 0.0) / slots(node, other.request)
        return total_s

    def _room_at(self, node: Node, request: ResourceRequest) -> float | None:
        known = self._rooms.get((node.name, request))
        if known is not None and known[0] == node.version:
            return known[1]
        if len(self._rooms) > 4096:
            self._rooms.clear()
        found = room_at(self._backlog, node, request)
        self._rooms[node.name, request] = (node.version, found)
        return found

    def _further(self, queue: Queue, nodes: list[Node], delay: Delay) -> Choice | None:
        """One that stands so far behind its delayed head that it had better go elsewhere."""
        head, home = _head(queue), queue.request.eligible.get(queue.home or "")
        if delay.wait_s is None or home is None or not head.duration_s or queue.count < 2:
            return None
        step_s = head.duration_s / slots(home, queue.request)
        behind = int((delay.move_s - delay.wait_s) / step_s) + 1
        if behind >= queue.count:
            return None
        chosen = queue.further(behind)
        if chosen is None or chosen is head:
            return None
        nodes = [node for node in nodes if self._chooser.admits(queue, chosen, node)]
        nodes = self._without_equals(queue, chosen, nodes)
        moves = {node.name: self._network.move_s(chosen.data, node.name) for node in nodes}
        if not moves or min(moves.values()) >= delay.wait_s + behind * step_s:
            return None
        return chosen, self._best(queue, chosen, nodes, moves, min(moves.values())), len(moves)

    def _without_equals(self, queue: Queue, head: ScheduledFunction, nodes: list[Node]) -> list[Node]:
        """Nodes near which no function of equal rank waits that has room there."""
        if not self._yields:
            return nodes
        left = []
        for node in nodes:
            if any(
                self._is_equal(head, other, node) for other in self._backlog.tables.near.get(node.name, ())
            ):
                self.yielded[node.name] = node
            else:
                left.append(node)
        return left

    def _is_equal(self, head: ScheduledFunction, other: Queue, node: Node) -> bool:
        order_key = other.head()
        if other is head.queue or order_key is None:
            return False
        first = order_key[3]
        if first.run is not head.run:
            if not self._backlog.goes_before(order_key, head.order_key()):
                return False
        elif first.priority != head.priority or first.rank < head.rank:
            return False
        move_s = self._network.move_s
        is_nearer = move_s(first.data, node.name) < move_s(head.data, node.name) - self._floor_s
        return is_nearer and self._chooser.admits(other, first, node)

    def _note(self, queue: Queue, delay: Delay) -> None:
        queue.delay = delay
        head, now = _head(queue), self._backlog.clock.now
        if queue.delayed_s is None:
            queue.delayed_s = now
        if head.delayed_s is None:
            head.delayed_s = now
        self._number += 1
        heappush(self._due, (delay.until_s, self._number, queue, delay))

    # When to look again

    def deadline(self) -> float | None:
        """When the next delay is over."""
        due = self._due
        while due and due[0][2].delay is not due[0][3]:
            heappop(due)
        return due[0][0] if due else None

    def review(self, now: float) -> None:
        """Before a decision: have queues looked at whose delay is over; heads yield to equals again."""
        self._yields = True
        while (due_s := self.deadline()) is not None and due_s <= now + _EVEN_S:
            self._backlog.refresh(heappop(self._due)[2])

    def begins(self, node: Node) -> None:
        """A function has been placed on a node: what waits for it weighs its wait anew."""
        if node.name in self._backlog.tables.near:
            self._begun_s[node.name] = self._backlog.clock.now

    def look_again(self, node: Node) -> None:
        """A function has been placed on a node: those that wait for it may have to wait for longer."""
        for queue in self._backlog.tables.near.get(node.name, ()):
            if queue.delay is not None:
                self._backlog.refresh(queue)

    def look_again_at_all(self) -> None:
        """Moves take longer, or less long, than was thought."""
        for queue in [queue for queue in self._backlog.with_data if queue.delay is not None]:
            self._backlog.refresh(queue)

    def take_back_yielded(self) -> None:
        """Offer nodes again that heads left to their equals; now none is left to another."""
        self._yields = False
        for node in self.yielded.values():
            if self._backlog.with_data.first_fit(node, {}) is not None:
                self._backlog.ledger.freed[node.name] = node
        self.yielded.clear()

    def forget(self) -> None:
        """Drop what was kept to know sooner when nodes have room."""
        self._rooms.clear()
        self._due.clear()
        self._begun_s.clear()


def _head(queue: Queue) -> ScheduledFunction:
    order_key = queue.head()
    assert order_key is not None
    return order_key[3]


def slots(node: Node, request: ResourceRequest) -> int:
    """How many functions of a request run at once on a node."""
    return max(1, min(node.total.get(name, 0) // units for name, units in request.amounts))
