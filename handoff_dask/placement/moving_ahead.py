"""Moving data ahead: large arguments go to where a function will run, before it can be placed there.

Otherwise a function would begin to fetch what it takes when it is placed, and hold its room meanwhile.

1. *Functions that wait for room* at the only node where they may run: the first of them, as many as run
   there at once, have what they take moved there.  Of those that have a choice nothing moves: another node
   may have room sooner, and the moves were for nothing (in the six shapes of ``benchmarks/data_shapes.py``
   they made a tree of sums a tenth slower).
2. *Functions of which some arguments are still computed*: a join takes many large results, which end one
   after another, and the links are idle until the last one has ended.  So a node is chosen for it early, its
   home, and what is there already moves to that node.  Once it is ready its home has most of what it takes,
   and it goes there by the rules of :mod:`~handoff_dask.placement.locality`.
3. *Functions that wait for one of a few nodes*, fewer than half, none of which has any of their data: each is
   given a home, the node where moving and waiting take least, and waits for it as under 1.

A home is chosen early only where that is no guess: for a function that has no choice of a node, or one that
takes several arguments of which some share is known.  The first of them must have been known for as long as
it takes to move, and no more such functions may be open than there are nodes: in a shuffle the links are
busy anyway, and room decides where each function runs.  Of the nodes that will do the home is the one to
which moving takes least, what moves there for others counted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice

from handoff_dask.placement.backlog import Backlog
from handoff_dask.placement.decisions import Decision, MoveData
from handoff_dask.placement.demand import Demand, FunctionKey, RunKey
from handoff_dask.placement.events import ArgumentReady
from handoff_dask.placement.ledger import Node
from handoff_dask.placement.locality import slots
from handoff_dask.placement.network import Datum
from handoff_dask.placement.queues import Queue, ScheduledFunction
from handoff_dask.placement.runs import Run


class _Gathered:
    """What is known of a function that waits for some of its arguments."""

    __slots__ = ("count", "data", "demand", "fresh", "home", "inward_s", "run", "since")

    def __init__(self, run: RunKey, demand: Demand, count: int, since: float) -> None:
        self.run = run
        #: When the first argument became known.
        self.since = since
        self.demand = demand
        #: How many arguments it takes.
        self.count = count
        self.data: dict[Datum, None] = {}
        #: Those of which nothing has been decided.
        self.fresh: list[Datum] = []
        self.home: str | None = None
        #: Seconds for which moves to its home are expected to take the link, in all.
        self.inward_s = 0.0


class MovingAhead:
    """Decides which data moves before a function is ready that takes it.

    Parameters
    ----------
    backlog
        What the engine knows.
    full_nodes
        Nodes whose memory is nearly full: nothing moves there ahead.
    """

    def __init__(self, backlog: Backlog, full_nodes: Collection[str]) -> None:
        self._backlog = backlog
        self._network = backlog.network
        self._settings = backlog.settings
        self._full_nodes = full_nodes
        #: Functions of which some arguments are there.
        self.open: dict[FunctionKey, _Gathered] = {}
        self._of_run: dict[RunKey, dict[FunctionKey, None]] = {}
        #: Those of which an argument has become known.
        self._heard: dict[FunctionKey, None] = {}
        #: ``{node name: queues of functions that can run only there}``.
        self._only: dict[str, dict[Queue, None]] = {}
        #: Queues of which a function has come.
        self._touched: dict[Queue, None] = {}
        #: ``{node name: seconds for which data moves there ahead}``, of functions that are not ready yet.
        self._inward: dict[str, float] = {}

    def argument_ready(self, event: ArgumentReady) -> None:
        """An argument of a function has become known that waits for others."""
        if event.run not in self._backlog.runs:
            return
        gathered = self.open.get(event.function)
        if gathered is None:
            gathered = self.open[event.function] = _Gathered(
                event.run, event.demand, event.count, self._backlog.clock.now
            )
            self._backlog.incomplete[event.function] = gathered.data
            self._of_run.setdefault(event.run, {})[event.function] = None
        data = self._network.refer((event.argument,))
        if data[0] in gathered.data:  # it was computed again
            self._network.release(data)
        gathered.data[data[0]] = None
        gathered.fresh.append(data[0])
        self._heard[event.function] = None

    def home_of(self, run: Run, demand: Demand, data: Sequence[Datum]) -> str | None:
        """The node that a function is to wait for of whose data none is on a node where it may run."""
        eligible, _ = self._eligible(run, demand)
        if not 1 < len(eligible) <= self._few():
            return None
        moves = {
            name: self._network.move_s(data, name) + self._waiting_s(name)
            for name, node in eligible.items()
            if node.present and node.accepting
        }
        return min(moves, key=lambda name: (moves[name], name), default=None)

    def _few(self) -> int:
        """Fewer eligible nodes than this are scarce: data is made elsewhere, as a rule."""
        return min(len(self._backlog.ledger.nodes) // 2, 2 * self._settings.data_looks)

    def _waiting_s(self, name: str) -> float:
        """Seconds that functions hold a node which wait for it."""
        total_s = 0.0
        for queue in self._backlog.tables.near.get(name, ()):
            order_key = queue.head()
            if order_key is not None:
                total_s += queue.count * (order_key[3].duration_s or 0.0)
        return total_s

    def waits(self, scheduled: ScheduledFunction) -> None:
        """A function waits that takes large data."""
        queue = scheduled.queue
        if queue.home is not None:
            if scheduled.has_moved or len(queue.request.eligible) <= self._few():
                self._touched[queue] = None
            return
        node = self._only_node(queue)
        if node is not None:
            self._only.setdefault(node.name, {})[queue] = None
            self._touched[queue] = None

    def over(self, function: FunctionKey) -> str | None:
        """A function is ready: the rest is done when it is placed.  The answer is its home, if it has one."""
        gathered = self.open.pop(function)
        home = gathered.home
        del self._backlog.incomplete[function]
        of_run = self._of_run[gathered.run]
        del of_run[function]
        if not of_run:
            del self._of_run[gathered.run]
        self._heard.pop(function, None)
        self._leave(gathered)
        self._network.release(tuple(gathered.data))
        return home

    def close(self, run: RunKey) -> None:
        """A run is closed."""
        for function in list(self._of_run.get(run, ())):
            self.over(function)
        closed = self._backlog.runs.get(run)
        gone = [] if closed is None else self._backlog.tables.queues_of(closed)
        for queue in gone:
            self._touched.pop(queue, None)
        for name, queues in list(self._only.items()):
            for queue in gone:
                queues.pop(queue, None)
            if not queues:
                del self._only[name]

    def node_left(self, name: str) -> None:
        """A node is gone: functions that were to go there are given another home."""
        for gathered in self.open.values():
            if gathered.home == name:
                self._leave(gathered)
                gathered.fresh = list(gathered.data)

    def decide(self, placed_on: Iterable[str]) -> Iterator[Decision]:
        """What is to be moved now that functions have been placed on some nodes."""
        near = self._backlog.tables.near
        for name in placed_on:
            for queue in near.get(name, ()):
                if len(queue.request.eligible) <= self._few():
                    self._touched[queue] = None
            self._touched.update(self._only.get(name, ()))
        for queue in self._touched:
            if queue.count:
                yield from self._for_first(queue)
        self._touched.clear()
        yield from self._for_open()

    def _for_first(self, queue: Queue) -> Iterator[Decision]:
        """Moves for the first functions of a queue, as many as run on their node at once."""
        node = self._only_node(queue) if queue.home is None else self._backlog.ledger.nodes.get(queue.home)
        if node is None or not node.present or not node.accepting or node.name in self._full_nodes:
            return
        for scheduled in queue.first_few(slots(node, queue.request)):
            if scheduled.data:
                scheduled.has_moved = True
                yield from self._move(scheduled.function, scheduled.data, node.name)

    def _only_node(self, queue: Queue) -> Node | None:
        """The only node that will do for a queue's functions; None if there are several."""
        if queue.group is not None:
            return queue.group.node
        if queue.pin is not None:
            return self._backlog.ledger.find(queue.pin)
        eligible = queue.request.eligible
        return next(iter(eligible.values())) if len(eligible) == 1 else None

    def _move(self, function: FunctionKey, data: Iterable[Datum], name: str) -> Iterator[Decision]:
        # What is nowhere was lost with a node.
        missing = [datum for datum in data if datum.places and name not in datum.places]
        if missing:
            self._network.take(missing, name)
            yield MoveData(function=function, node=name, data=tuple(datum.key for datum in missing))

    def _for_open(self) -> Iterator[Decision]:
        """Moves for functions of which some arguments are still computed."""
        for function in self._heard:
            gathered = self.open[function]
            if gathered.home is None:
                self._choose(gathered)
            home = gathered.home
            if home is None or home in self._full_nodes:
                continue
            yield from self._move(function, gathered.fresh, home)
            gathered.fresh.clear()
        self._heard.clear()

    def _choose(self, gathered: _Gathered) -> None:
        """Give a function a home, if it can be known by now where it will run."""
        run = self._backlog.runs[gathered.run]
        eligible, is_sure = self._eligible(run, gathered.demand)
        known, count = len(gathered.data), gathered.count
        least = self._settings.gathered_arguments
        if not is_sure and (count < least or known < 2 or known < self._settings.gathered_share * count):
            return
        now, data = self._backlog.clock.now, tuple(gathered.data)
        if not is_sure and (
            len(self.open) > len(eligible) or now - gathered.since < self._network.alone_s(data[:1])
        ):
            return
        held = self._network.held(data)
        names: Iterable[str] = eligible
        if len(eligible) > 2 * self._settings.data_looks:
            # To any other node more would have to move.
            names = [name for name in held if name in eligible] or islice(eligible, self._settings.data_looks)
        names = [name for name in names if eligible[name].present and eligible[name].accepting]
        if not names:
            return
        inward = self._inward
        moves = {name: self._network.missing_from_s(data, name) * count / known for name in names}
        home = min(moves, key=lambda name: (moves[name] + inward.get(name, 0.0), name))
        gathered.home, gathered.inward_s = home, moves[home]
        inward[home] = inward.get(home, 0.0) + moves[home]

    def _eligible(self, run: Run, demand: Demand) -> tuple[Mapping[str, Node], bool]:
        """Nodes that a function may go to, by name, and whether it has no choice."""
        ledger = self._backlog.ledger
        if demand.pin is not None or demand.group is not None:
            node = ledger.find(demand.pin) if demand.pin is not None else run.groups[demand.group].node
            return ({} if node is None else {node.name: node}), True
        if demand.binds is not None or run.queue_group.asks_user or run.assigned:
            return {}, False
        eligible = self._backlog.tables.queue(run, demand, None).request.eligible
        return eligible, len(eligible) == 1

    def _leave(self, gathered: _Gathered) -> None:
        if gathered.home is not None:
            left_s = self._inward.get(gathered.home, 0.0) - gathered.inward_s
            if left_s > 1e-6:
                self._inward[gathered.home] = left_s
            else:
                self._inward.pop(gathered.home, None)
            gathered.home = None
