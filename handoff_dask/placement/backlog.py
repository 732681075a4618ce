"""All that waits, and in whose name: runs, their scopes and groups, queues and agendas."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from handoff_dask.placement.collocation import Group
from handoff_dask.placement.events import (
    Demand,
    FunctionKey,
    FunctionReady,
    RunKey,
    RunOpened,
    RunRanked,
)
from handoff_dask.placement.ledger import Ledger, Node
from handoff_dask.placement.queues import Agenda, Queue, Waiting
from handoff_dask.placement.runs import Run, Scope, scored
from handoff_dask.placement.shapes import Confinement, Shape
from handoff_dask.placement.strategies import ScoredStrategy, SelectStrategy
from handoff_dask.resources import NOTHING, Cost

if TYPE_CHECKING:
    from handoff_dask.placement.queues import Place
    from handoff_dask.placement.reservation import Reservation


class Backlog:
    """The functions that wait, ordered so that each event touches few of them."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.runs: dict[RunKey, Run] = {}
        #: Scopes that runs share, by strategy.
        self.scopes: dict[ScoredStrategy, Scope] = {}
        self.shapes: dict[tuple[Cost, Cost, Confinement | None], Shape] = {}
        #: The shape of a function that costs nothing, which every node could hold.
        self.anything = Shape(NOTHING)
        self.anything.holders = ledger.nodes
        #: In the order in which they became ready.
        self.waiting: dict[FunctionKey, Waiting] = {}
        #: Queues that have to be looked at.
        self.fresh: dict[Queue, None] = {}
        #: Queues that wait for room on any node.
        self.anywhere = Agenda()
        #: Queues that wait for one node, by its name (or by the pin, if there is no such node).
        self.at: dict[str, Agenda] = {}
        #: Queues whose strategy has to be asked again when anything changes.
        self.asking: dict[Queue, None] = {}
        #: ``{node name: for whom it is being cleared}``.
        self.reserved: dict[str, Reservation] = {}
        #: The longest time that a function was expected to take since nobody waited, as far as known.
        self.longest_s = 0.0
        self._arrivals = 0

    # Runs

    def open(self, event: RunOpened) -> Run:
        """Add a run."""
        strategy = event.strategy
        select = strategy if isinstance(strategy, SelectStrategy) else None
        own = event.nodes is not None or event.max_concurrency is not None or select is not None
        if own or event.permit is not None or not isinstance(strategy, ScoredStrategy):
            confinement = None if event.nodes is None else Confinement(event.nodes)
            scope = Scope(scored(strategy), select, confinement, event.max_concurrency, permit=event.permit)
        else:
            scope = self.scopes.setdefault(strategy, Scope(strategy, shared=True))
        run = Run(event.run, strategy, scope, event.allocation_timeout_s)
        run.next_rank = event.next_rank
        scope.users += 1
        for key, demand in event.groups.items():
            shape = self._shape(demand.cost, demand.cost, scope.confinement)
            run.groups[key] = group = Group(run, key, demand, shape)
            shape.groups[group] = None
        self.runs[event.run] = run
        return run

    def close(self, key: RunKey) -> Run | None:
        """Drop a run and what of it waits."""
        run = self.runs.pop(key, None)
        if run is None:
            return None
        self.drop_waiting(run)
        scope = run.scope
        scope.users -= 1
        queues = list(run.private.values())
        if not scope.users:
            queues += [*scope.queues.values(), *scope.assigned.values()]
            if scope.shared:
                del self.scopes[scope.strategy]
        for queue in queues:
            self._forget(queue)
        for group in run.groups.values():
            group.unbind()
            del group.shape.groups[group]
            self._release(group.shape)
        return run

    def drop_waiting(self, run: Run) -> None:
        """Let nothing of a run wait any longer."""
        if not run.waiting:
            return
        scope = run.scope
        queues = [*run.private.values(), *scope.queues.values(), *scope.assigned.values()]
        for queue in queues:
            for waiting in [w for w in queue if w.run is run]:
                self.withdraw(waiting)

    def rerank(self, event: RunRanked) -> None:
        """Put the waiting functions of a run in a new order."""
        run = self.runs.get(event.run)
        if run is None:
            return
        run.ranks = event.ranks
        touched: dict[Queue, None] = {}
        for function, rank in event.ranks.items():
            waiting = self.waiting.get(function)
            if waiting is not None and waiting.run is run and waiting.rank not in (rank, math.inf):
                waiting.rank = rank
                touched[waiting.queue] = None
        for queue in touched:
            queue.rebuild()
            self.reposition(queue)

    # Functions

    def add(self, run: Run, event: FunctionReady, now: float, assigned: str | None) -> Waiting:
        """Let a function wait; the caller decides when it is looked at."""
        queue = self._queue(run, event.demand, assigned)
        self._arrivals += 1
        rank = run.ranks.get(event.function, event.rank) if run.ranks else event.rank
        order = (event.priority, rank, self._arrivals)
        waiting = Waiting(event.function, run, queue, order, now, event.duration_s, event.transfer_s)
        waiting.certain = event.certain and event.duration_s is not None
        waiting.home = event.home
        self.expect(waiting, event.duration_s)
        self.waiting[event.function] = waiting
        run.waiting += 1
        queue.push(waiting)
        if queue.key is not None:
            if queue.key > (-waiting.priority, -waiting.rank, waiting.arrival):
                self.reposition(queue)
            elif self.reserved and waiting.may_slip_in_before(queue.key[3]):
                self.refresh(queue)
        elif not queue.fresh:
            self.refresh(queue)
        return waiting

    def expect(self, waiting: Waiting, duration_s: float | None) -> None:
        """Note how long a function is expected to take."""
        waiting.duration_s = duration_s
        if duration_s is not None and duration_s > self.longest_s:
            self.longest_s = duration_s

    def withdraw(self, waiting: Waiting) -> None:
        """Let a function wait no longer."""
        del self.waiting[waiting.function]
        waiting.run.waiting -= 1
        queue = waiting.queue
        queue.drop(waiting)
        if queue.key is not None and queue.key[3] is waiting:
            self.reposition(queue)
        elif not queue.count:
            self.rest(queue)

    def refresh(self, queue: Queue) -> None:
        """Have a queue looked at, all nodes considered."""
        self._leave_agenda(queue)
        if queue.declined:
            queue.take_back_declined()
        if queue.count and not queue.fresh:
            queue.fresh = True
            self.fresh[queue] = None

    def rest(self, queue: Queue) -> None:
        """Take a queue off every list: there is nothing to do for it."""
        self._leave_agenda(queue)
        self.fresh.pop(queue, None)
        self.asking.pop(queue, None)
        queue.fresh = False

    def block(self, queue: Queue, cause: str) -> None:
        """Note that the head of a queue has no room anywhere."""
        self.rest(queue)
        queue.cause = cause
        key = queue.head()
        if key is not None:
            self._agenda(queue).add(queue, key)

    def reposition(self, queue: Queue) -> None:
        """Put a queue that waits for room where its new head belongs."""
        agenda, old, key = queue.agenda, queue.key, queue.head()
        if agenda is None:
            return
        assert old is not None
        if self.reserved and key is not None and key[3].may_slip_in_before(old[3]):
            # A reserved node that did not admit the old head may admit this one.
            self.refresh(queue)
        elif key is None:
            self._leave_agenda(queue)
        else:
            agenda.remove(queue)
            agenda.add(queue, key)

    # Where

    def first_fit(self, node: Node, after: Place | None) -> Queue | None:
        """The first queue, behind a place in the order, for whose head a node has room."""
        found, agenda = self.anywhere.first_fit(node, after), self.at.get(node.name)
        return found if agenda is None else _earlier(found, agenda.first_fit(node, after))

    def first_blocked(self) -> Queue | None:
        """The queue that stands first of those whose heads have no room."""
        first = self.anywhere.first()
        for agenda in self.at.values():
            first = _earlier(first, agenda.first())
        return first

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
        holders = queue.shape.holders
        if self.is_tied(queue):
            node = self.target(queue)
            if node is None or node.name not in holders:
                return False
        elif not holders:
            return False
        return queue.to_bind is None or queue.to_bind.is_possible()

    def queues(self) -> Iterator[Queue]:
        """Every queue there is."""
        for shape in self.shapes.values():
            yield from shape.queues

    def queues_binding(self, group: Group) -> list[Queue]:
        """Queues of functions that need a group to have a node."""
        tables = (group.run.private, group.run.scope.queues)
        return [queue for table in tables for queue in table.values() if queue.to_bind is group]

    def free_assigned(self, name: str) -> None:
        """Let functions that a user's strategy gave to a node that is gone go anywhere."""
        for queue in [queue for queue in self.at.get(name, ()) if queue.soft]:
            self.rest(queue)
            for waiting in queue.take_all():
                waiting.queue = self._queue(waiting.run, replace(queue.demand, pin=None), None)
                waiting.queue.push(waiting)
                self.refresh(waiting.queue)

    # Inside

    def _queue(self, run: Run, demand: Demand, assigned: str | None) -> Queue:
        scope = run.scope
        if assigned is not None and demand.pin is None:
            demand = replace(demand, pin=assigned)
        common = demand.group is None and demand.binds is None
        queues = scope.queues if common or not scope.shared else run.private
        if assigned is not None:
            queues = scope.assigned
        queue = queues.get(demand)
        if queue is None:
            queue = queues[demand] = self._new_queue(run, demand)
            queue.soft = assigned is not None
        return queue

    def _new_queue(self, run: Run, demand: Demand) -> Queue:
        group = None if demand.group is None else run.groups[demand.group]
        to_bind = None if demand.binds is None else run.groups[demand.binds]
        hold = demand.cost if group is None else group.shape.cost
        shape = self._shape(demand.cost, hold, run.scope.confinement)
        queue = Queue(run.scope, demand, shape, group, to_bind)
        shape.queues[queue] = None
        if group is not None:
            group.queues[queue] = None
        return queue

    def _shape(self, cost: Cost, hold: Cost, confinement: Confinement | None) -> Shape:
        shape = self.shapes.get((cost, hold, confinement))
        if shape is None:
            shape = self.shapes[cost, hold, confinement] = Shape(cost, hold, confinement)
            for node in self.ledger.nodes.values():
                shape.review(node)
        return shape

    def _forget(self, queue: Queue) -> None:
        self.rest(queue)
        del queue.shape.queues[queue]
        self._release(queue.shape)

    def _release(self, shape: Shape) -> None:
        if not shape.queues and not shape.groups:
            self.shapes.pop((shape.cost, shape.hold, shape.confinement), None)

    def _agenda(self, queue: Queue) -> Agenda:
        if not self.is_tied(queue):
            return self.anywhere
        node = self.target(queue)
        name = queue.pin if node is None else node.name
        assert name is not None
        return self.at.setdefault(name, Agenda(name))

    def _leave_agenda(self, queue: Queue) -> None:
        agenda = queue.agenda
        if agenda is not None:
            agenda.remove(queue)
            if agenda.name is not None and not agenda:
                del self.at[agenda.name]


def _earlier(one: Queue | None, other: Queue | None) -> Queue | None:
    """The one of two that stands first."""
    if one is None or other is None:
        return one or other
    assert one.key is not None
    assert other.key is not None
    return one if one.key < other.key else other
