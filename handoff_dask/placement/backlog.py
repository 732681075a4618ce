"""All that waits, in the order in which it is looked at, and what is placed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from handoff_dask.placement.clock import Clock
from handoff_dask.placement.demand import FunctionKey, RunKey
from handoff_dask.placement.events import FunctionReady, RunOpened, RunRanked
from handoff_dask.placement.ledger import Ledger, Node
from handoff_dask.placement.network import Datum, Network
from handoff_dask.placement.priority_queue import RunLines
from handoff_dask.placement.queue_tables import QueueTables
from handoff_dask.placement.queues import OrderKey, Queue, ScheduledFunction
from handoff_dask.placement.reservation import Reservation
from handoff_dask.placement.runs import Run
from handoff_dask.placement.settings import EngineSettings
from handoff_dask.placement.shares import RunParty, Shares

#: How much earlier than it arrived a function counts that frees data, in places of the order.
_FREEING_FIRST = 1 << 60


class Backlog:
    """The functions that wait, ordered so that each event touches few of them."""

    def __init__(self, ledger: Ledger, settings: EngineSettings) -> None:
        self.ledger = ledger
        self.settings = settings
        self.clock = Clock()
        self.network = Network(self.clock, settings)
        #: ``{function that waits for some of its arguments: those of its arguments that are there}``.
        self.incomplete: dict[FunctionKey, dict[Datum, None]] = {}
        self.tables = QueueTables(ledger)
        #: Whose turn it is.
        self.shares = Shares(ledger, self.clock)
        self.runs: dict[RunKey, Run] = {}
        #: Those of which somebody else has sent the functions to their nodes.
        self.outside: dict[RunKey, None] = {}
        #: In the order in which they became ready.
        self.waiting: dict[FunctionKey, ScheduledFunction] = {}
        #: Functions that are placed, prefetched ones included.
        self.placed: dict[FunctionKey, ScheduledFunction] = {}
        #: Queues that have to be looked at.
        self.fresh: dict[Queue, None] = {}
        #: Queues that wait for room on any node.
        self.anywhere = RunLines(self.shares)
        #: Queues that wait for one node, by its name (or by the pin, if there is no such node).
        self.at: dict[str, RunLines] = {}
        #: Queues of functions whose data is at some node.
        self.with_data = RunLines(self.shares)
        #: Queues whose strategy has to be asked again when anything changes.
        self.to_ask: dict[Queue, None] = {}
        #: ``{node name: its backfill reservation}``.
        self.reserved: dict[str, Reservation] = {}
        #: The longest time that a function was expected to take since nobody waited, as far as known.
        self.longest_s = 0.0
        self._arrivals = 0

    # Runs

    def open(self, event: RunOpened) -> Run:
        """Add a run."""
        party = self.shares.open(event.client, event.priority, event.share)
        run = self.runs[event.run] = self.tables.open(event, party)
        if event.outside:
            self.outside[event.run] = None
        return run

    def close(self, key: RunKey) -> Run | None:
        """Drop a run and what of it waits."""
        run = self.runs.pop(key, None)
        self.outside.pop(key, None)
        if run is not None:
            self.drop_waiting(run)
            for queue in self.tables.close(run):
                self.rest(queue)
            self.shares.close(run.party)
        return run

    def drop_waiting(self, run: Run) -> None:
        """Let nothing of a run wait any longer."""
        if not run.party.waiting:
            return
        for queue in self.tables.queues_of(run):
            for scheduled in list(queue):
                self.withdraw(scheduled)

    def rerank(self, event: RunRanked) -> None:
        """Put the waiting functions of a run in a new order."""
        run = self.runs.get(event.run)
        if run is None:
            return
        run.ranks = event.ranks
        touched: dict[Queue, None] = {}
        for function, rank in event.ranks.items():
            scheduled = self.waiting.get(function)
            if scheduled is not None and scheduled.run is run and scheduled.rank not in (rank, math.inf):
                scheduled.rank = rank
                touched[scheduled.queue] = None
        for queue in touched:
            queue.rebuild()
            self.reposition(queue)

    # Functions

    def add(
        self,
        run: Run,
        event: FunctionReady,
        assigned: str | None,
        data: tuple[Datum, ...],
        home: str | None,
    ) -> ScheduledFunction:
        """Let a function wait; the caller decides when it is looked at."""
        now = self.clock.now
        if home is None:
            queue = self.tables.queue(run, event.demand, assigned)
        else:
            queue = self.tables.queue_near(run, event.demand, home)
        self._arrivals += 1
        rank = run.ranks.get(event.function, event.rank) if run.ranks else event.rank
        # Among equals, what frees data goes first: what is held by results does not grow without need.
        arrival = self._arrivals - _FREEING_FIRST if event.frees else self._arrivals
        order = (event.priority, rank, arrival)
        scheduled = ScheduledFunction(event.function, run, queue, order, now, event.duration_s)
        scheduled.data = data
        scheduled.frees = event.frees
        scheduled.certain = event.certain and event.duration_s is not None
        scheduled.preferred_node = event.preferred_node
        self.expect(scheduled, event.duration_s)
        self.waiting[event.function] = scheduled
        self.tables.to_come.waits(run.key, queue.request, event.demand.cost)
        if event.frees:
            run.queue_group.holding_back.waits(queue.request)
        run.party.waiting += 1
        if run.party.waiting == 1 and self.shares.rivals:
            self.shares.begins_to_wait(run.party)
        queue.push(scheduled)
        if queue.key is not None:
            if queue.key > (-scheduled.priority, -scheduled.rank, scheduled.arrival):
                self.reposition(queue)
            elif queue.delay is not None:
                # It may be one of so many that some had better go elsewhere.
                self.refresh(queue)
            elif self.reserved and scheduled.may_backfill_before(queue.key[3]):
                self.refresh(queue)
        elif not queue.fresh:
            self.refresh(queue)
        return scheduled

    def expect(self, scheduled: ScheduledFunction, duration_s: float | None) -> None:
        """Note how long a function is expected to take."""
        scheduled.duration_s = duration_s
        if duration_s is not None and duration_s > self.longest_s:
            self.longest_s = duration_s

    def withdraw(self, scheduled: ScheduledFunction) -> None:
        """Let a function wait no longer."""
        del self.waiting[scheduled.function]
        self.waits_no_more(scheduled)
        if scheduled.data:
            self.network.release(scheduled.data)
        queue = scheduled.queue
        queue.drop(scheduled)
        if queue.key is not None and queue.key[3] is scheduled:
            self.reposition(queue)
        elif not queue.count:
            self.rest(queue)

    def waits_no_more(self, scheduled: ScheduledFunction) -> None:
        """Note that a function waits no longer."""
        queue = scheduled.queue
        if scheduled.frees:
            queue.queue_group.holding_back.waits_no_more(queue.request)
            self.look_again_at_held(queue)
        self.tables.to_come.waits_no_more(queue.request)
        party = queue.party
        party.waiting -= 1
        if not party.waiting and self.shares.rivals:
            self.shares.waits_no_more(party)

    def look_again_at_held(self, queue: Queue) -> None:
        """Have queues of the same run looked at that are held back no longer."""
        for held in queue.queue_group.holding_back.released():
            self.refresh(held)

    def look_again_at_all_held(self) -> None:
        """Nodes have come, gone or changed."""
        for run in self.runs.values():
            for held in run.queue_group.holding_back.released():
                self.refresh(held)

    def refresh(self, queue: Queue) -> None:
        """Have a queue looked at, all nodes considered."""
        self._leave_line(queue)
        queue.delay = None
        if queue.declined:
            queue.take_back_declined()
        if queue.count and not queue.fresh:
            queue.fresh = True
            self.fresh[queue] = None

    def rest(self, queue: Queue) -> None:
        """Take a queue off every list: there is nothing to do for it."""
        self._leave_line(queue)
        self.fresh.pop(queue, None)
        self.to_ask.pop(queue, None)
        queue.fresh = False

    def block(self, queue: Queue, cause: str) -> None:
        """Note that the head of a queue has no room anywhere."""
        self.rest(queue)
        queue.cause = cause
        key = queue.head()
        if key is not None:
            self._line_for(queue).add(queue, key)

    def reposition(self, queue: Queue) -> None:
        """Put a queue that waits for room where its new head belongs."""
        line, old, key = queue.blocked_in, queue.key, queue.head()
        if line is None:
            return
        assert old is not None
        if queue in queue.queue_group.holding_back.queues:
            # Another head may not be held back.
            self.refresh(queue)
        elif queue.delay is not None and key is not None:
            # Another head may go where the old one would not.
            self.refresh(queue)
        elif self.reserved and key is not None and key[3].may_backfill_before(old[3]):
            # A reserved node that did not admit the old head may admit this one.
            self.refresh(queue)
        elif key is None:
            self._leave_line(queue)
        else:
            line.remove(queue)
            line.add(queue, key)

    # Where

    def goes_before(self, one: OrderKey, other: OrderKey) -> bool:
        """Whether one function goes before another: it is its run's turn, or they are of the same run."""
        if not self.shares.rivals or one[3].run is other[3].run:
            return one < other
        standing = self.shares.standing
        return standing(one[3].run.party) < standing(other[3].run.party)

    def earlier(self, one: Queue | None, other: Queue | None) -> Queue | None:
        """The one of two that stands first."""
        if one is None or other is None:
            return one or other
        assert one.key is not None
        assert other.key is not None
        if not self.shares.rivals:
            return one if one.key < other.key else other
        return one if self.goes_before(one.key, other.key) else other

    def first_fit(self, node: Node, after: Mapping[RunParty, OrderKey], *, with_data: bool) -> Queue | None:
        """The first queue, behind a place in the order of each run, for whose head a node has room.

        With or without those of functions whose data is somewhere.
        """
        found, line = self.anywhere.first_fit(node, after), self.at.get(node.name)
        if line is not None:
            found = self.earlier(found, line.first_fit(node, after))
        if with_data and self.tables.near:
            found = self.earlier(found, self.with_data.first_fit(node, after))
        return found

    def first_blocked(self) -> Queue | None:
        """The queue that stands first of those whose heads have no room."""
        first = self.anywhere.first()
        for line in self.at.values():
            first = self.earlier(first, line.first())
        if self.tables.near:
            first = self.earlier(first, next((q for q in self.with_data if q.delay is None), None))
        return first

    def lines(self) -> list[RunLines]:
        """All priority queues of queues whose heads have no room."""
        return [self.anywhere, self.with_data, *self.at.values()]

    def target(self, queue: Queue) -> Node | None:
        """The only node that will do, if there is such a one and it is there."""
        if queue.pin is not None:
            return self.ledger.find(queue.pin)
        return None if queue.group is None else queue.group.node

    def is_tied(self, queue: Queue) -> bool:
        """Whether only one node will do."""
        return queue.pin is not None or (queue.group is not None and queue.group.node is not None)

    def is_possible(self, queue: Queue) -> bool:
        """Whether some node there is could hold the queue's functions when idle."""
        eligible = queue.request.eligible
        if self.is_tied(queue):
            node = self.target(queue)
            if node is None or node.name not in eligible:
                return False
        elif not eligible:
            return False
        return queue.to_bind is None or queue.to_bind.is_possible()

    def free_assigned(self, name: str) -> None:
        """Let functions that a user's strategy gave to a node that is gone go anywhere."""
        for queue in [queue for queue in self.at.get(name, ()) if queue.soft]:
            self.rest(queue)
            for scheduled in queue.take_all():
                scheduled.queue = self.tables.queue(scheduled.run, replace(queue.demand, pin=None), None)
                if scheduled.frees:
                    queue.queue_group.holding_back.waits_no_more(queue.request)
                    queue.queue_group.holding_back.waits(scheduled.queue.request)
                scheduled.queue.push(scheduled)
                self.refresh(scheduled.queue)

    # Inside

    def _line_for(self, queue: Queue) -> RunLines:
        if not self.is_tied(queue):
            return self.anywhere if queue.home is None else self.with_data
        node = self.target(queue)
        name = queue.pin if node is None else node.name
        assert name is not None
        return self.at.setdefault(name, RunLines(self.shares, name))

    def _leave_line(self, queue: Queue) -> None:
        line = queue.blocked_in
        if line is not None:
            line.remove(queue)
            if line.name is not None and not line:
                del self.at[line.name]
