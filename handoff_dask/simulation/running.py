"""The virtual clock: ends of functions in a heap, and nodes that do as they are told."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from heapq import heappop, heappush

from handoff_dask.errors import HandoffError
from handoff_dask.placement.decisions import Decision, MoveData, Place, Reject
from handoff_dask.placement.demand import DataArgument, Demand, GroupKey
from handoff_dask.placement.engine import PlacementEngine
from handoff_dask.placement.events import (
    ArgumentReady,
    Event,
    FunctionFinished,
    FunctionReady,
    NetworkMeasured,
    NodeJoined,
    RunOpened,
    SharedRegistered,
    TimePassed,
)
from handoff_dask.placement.settings import DEFAULT_SETTINGS, EngineSettings
from handoff_dask.placement.strategies import Strategy
from handoff_dask.resources import units_of
from handoff_dask.simulation.idleness import avoidable_idle
from handoff_dask.simulation.learning import Learned
from handoff_dask.simulation.problem import SimulatedFunction, SimulatedNode, Span, ranks_of
from handoff_dask.simulation.transfers import SimulatedNetwork, Transfers

_RUN = "simulation"


class SimulationStuck(HandoffError):
    """Functions are left that will never run."""

    def __init__(self, reasons: Mapping[Hashable, str]) -> None:
        super().__init__(dict(reasons))
        #: ``{function: why it does not run}``.
        self.reasons = dict(reasons)

    def __str__(self) -> str:
        shown = "; ".join(f"{function!r}: {why}" for function, why in list(self.reasons.items())[:3])
        return f"{len(self.reasons)} functions never run ({shown}); lower their costs or add nodes"


@dataclass(frozen=True, slots=True)
class SimulatedRun:
    """What a simulation came to."""

    #: Seconds from the start to the end of the last function.
    makespan_s: float
    #: ``{function: its span}``, in the order of their starts.
    spans: Mapping[Hashable, Span]
    #: ``(when, the facts told to the engine)``.
    events: Sequence[tuple[float, Sequence[Event]]] = field(repr=False)
    #: ``(when, what the engine decided)``; as long as ``events``.
    decisions: Sequence[tuple[float, Sequence[Decision]]] = field(repr=False)
    #: Share of the makespan in which a function that was ready had room somewhere and did not run.
    avoidable_idle: float
    #: Bytes that moved between nodes.
    bytes_moved: int = 0


class _Node:
    """Runs what it is sent, admitting of a prefetch queue only as many as its slots."""

    def __init__(self) -> None:
        self.taken: dict[int, Fraction] = {}
        #: ``{number: those that it holds back}``.
        self.held: dict[int, deque[Place]] = {}

    def arrives(self, place: Place) -> list[Place]:
        """Those that start now that a function has arrived."""
        if place.prefetch_queue is None:
            return [place]
        number = place.prefetch_queue[0]
        self.held.setdefault(number, deque()).append(place)
        return self._admit(number)

    def ends(self, place: Place) -> list[Place]:
        """Those that start now that a function has ended."""
        if place.prefetch_queue is None:
            return []
        number, slots = place.prefetch_queue
        self.taken[number] -= Fraction(1, slots)
        return self._admit(number)

    def _admit(self, number: int) -> list[Place]:
        started, held = [], self.held[number]
        while held:
            assert held[0].prefetch_queue is not None
            taken = self.taken.get(number, Fraction(0)) + Fraction(1, held[0].prefetch_queue[1])
            if taken > 1:
                break
            self.taken[number] = taken
            started.append(held.popleft())
        return started


class _Simulation:
    def __init__(
        self,
        functions: Sequence[SimulatedFunction],
        engine: PlacementEngine,
        overhead_s: float,
        known: bool,
        network: SimulatedNetwork | None,
    ) -> None:
        self.functions = {function.id: function for function in functions}
        self.engine = engine
        self.delay_s = overhead_s / 2
        self.known = known
        self.now = 0.0
        self.missing = {f.id: len(set(f.args)) for f in functions}
        self.dependents: dict[Hashable, list[Hashable]] = {f.id: [] for f in functions}
        for function in functions:
            for arg in dict.fromkeys(function.args):
                self.dependents[arg].append(function.id)
        #: How many of those that take each result have yet to end.
        self.takers = {key: len(dependents) for key, dependents in self.dependents.items()}
        self.transfers = None if network is None else Transfers(network)
        #: ``{function: the nodes that have its result}``, and which of its arguments each awaits on its node.
        self.copies: dict[Hashable, dict[str, None]] = {}
        self.awaited: dict[Hashable, set[Hashable]] = {}
        #: ``{(a result, a node that it is on its way to): the functions there that await it}``.
        self.placed_on: dict[tuple[Hashable, str], list[Place]] = {}
        self.ranks: Mapping[Hashable, float] = {}
        self.expected_s: Mapping[Hashable, float] = {}
        #: Where durations are learned as functions end.
        self.learned: Learned | None = None
        #: When time is going to pass next.
        self.wakes_s = math.inf
        self.nodes: dict[str, _Node] = {}
        self.spans: dict[Hashable, Span] = {}
        #: ``(when, number, what happens: a function arrives, ends, is reported, is released)``.
        self.calendar: list[tuple[float, int, str, Place | Hashable]] = []
        self.number = 0
        self.events: list[tuple[float, list[Event]]] = []
        self.decisions: list[tuple[float, list[Decision]]] = []

    def later(self, when: float, what: str, about: Place | Hashable) -> None:
        self.number += 1
        heappush(self.calendar, (when, self.number, what, about))

    def tell(self, events: list[Event]) -> None:
        decisions = self.engine.handle_all(events, now=self.now)
        self.events.append((self.now, events))
        self.decisions.append((self.now, decisions))
        due_s = self.engine.next_deadline() if self.delay_s else None
        if due_s is not None and due_s < self.wakes_s:
            self.wakes_s = due_s
            self.later(max(due_s, self.now), "wakes", None)
        for decision in decisions:
            if isinstance(decision, Place):
                self.later(self.now + self.delay_s, "arrives", decision)
            elif isinstance(decision, MoveData):
                self.move_ahead(decision)
            elif isinstance(decision, Reject):
                why = decision.problem or "; ".join(f"{n}: {o}" for n, o in decision.obstacles.items())
                raise SimulationStuck({decision.function: why or "there are no nodes"})

    def start(self, place: Place) -> None:
        stop_s = self.now + self.functions[place.function].duration_s
        self.spans[place.function] = Span(place.node, self.now, stop_s)
        self.later(stop_s, "ends", place)

    def ready(self, key: Hashable) -> FunctionReady:
        function, learned = self.functions[key], self.learned
        ranks, certain = self.ranks, self.known
        duration_s = self.expected_s.get(key, function.duration_s) if self.known else None
        if learned is not None:
            ranks, certain, duration_s = (
                learned.ranks,
                learned.is_certain(function),
                learned.expected_s(function),
            )
        return FunctionReady(
            function=key,
            run=_RUN,
            demand=function.demand,
            priority=function.priority,
            rank=ranks.get(key, 0.0),
            duration_s=duration_s,
            certain=certain,
            preferred_node=self.preferred_node(function),
            arguments=self.arguments(function),
            frees=self.transfers is not None and any(self.takers[arg] == 1 for arg in function.args),
        )

    def arguments(self, function: SimulatedFunction) -> tuple[DataArgument, ...]:
        """Where its arguments are, if moving all of them is no small matter."""
        if self.transfers is None:
            return ()
        sizes = {arg: self.functions[arg].nbytes for arg in function.args if self.functions[arg].nbytes}
        network = self.transfers.network
        alone_s = sum(network.latency_s + nbytes / network.bandwidth for nbytes in sizes.values())
        if alone_s < self.engine.settings.transfer_floor_s:
            return ()
        return tuple(DataArgument(arg, nbytes, tuple(self.copies[arg])) for arg, nbytes in sizes.items())

    def argument_ready(self, function: SimulatedFunction, dependent: Hashable) -> list[Event]:
        """What the engine is told of a result of which a function waits that waits for others, too."""
        settings, taker = self.engine.settings, self.functions[dependent]
        if self.transfers is None or len(self.dependents[function.id]) > settings.gathered_dependents:
            return []
        moves_s = function.nbytes / self.transfers.network.bandwidth
        count = len(set(taker.args))
        has_choice = taker.pin is None and taker.group is None
        if moves_s <= settings.transfer_floor_s or (has_choice and count < settings.gathered_arguments):
            return []
        argument = DataArgument(function.id, function.nbytes, tuple(self.copies[function.id]))
        return [
            ArgumentReady(function=dependent, run=_RUN, demand=taker.demand, argument=argument, count=count)
        ]

    def next_rank(self, key: Hashable) -> float:
        """The largest rank among those that become ready when a function ends."""
        ranks = self.ranks if self.learned is None else self.learned.ranks
        after = (ranks.get(d, 0.0) for d in self.dependents[key] if self.missing[d] == 1)
        return max(after, default=0.0)

    def preferred_node(self, function: SimulatedFunction) -> str | None:
        """The node that has most of a function's arguments, the first of them among equals."""
        counts = Counter(self.spans[arg].node for arg in function.args)
        return max(counts, key=lambda node: counts[node], default=None)

    def run(self) -> None:
        while self.calendar:
            self.now = self.calendar[0][0]
            told: list[Event] = []
            while self.calendar and self.calendar[0][0] <= self.now:
                told += self.happens(*heappop(self.calendar)[2:])
            if told:
                self.tell(told)

    def happens(self, what: str, about: Place | Hashable) -> list[Event]:
        if what == "wakes":
            self.wakes_s = math.inf
            return [TimePassed()]
        if what == "released":
            return [self.ready(about)]
        if what == "moves":
            self.move_on()
            return []
        assert isinstance(about, Place)
        if what == "arrives":
            self.arrives(about)
        elif what == "ends":
            for place in self.nodes[about.node].ends(about):
                self.start(place)
            if self.delay_s:
                self.later(self.now + self.delay_s, "reported", about)
            else:
                return self.report(about)
        else:
            return self.report(about)
        return []

    def arrives(self, place: Place) -> None:
        """A function has arrived on its node; it starts once its arguments are there."""
        missing = self.missing_on(place.node, self.functions[place.function])
        if not missing:
            for started in self.nodes[place.node].arrives(place):
                self.start(started)
            return
        assert self.transfers is not None
        self.awaited[place.function] = set(missing)
        for arg in missing:
            self.move(arg, place.node).append(place)
        self.look_later()

    def move_ahead(self, decision: MoveData) -> None:
        """Data is copied to a node ahead of the function that will take it."""
        for arg in decision.data:
            if decision.node not in self.copies[arg]:
                self.move(arg, decision.node)
        self.look_later()

    def move(self, arg: Hashable, node: str) -> list[Place]:
        """Start the move of a result, unless it is on its way; those that await it there."""
        assert self.transfers is not None
        awaiting = self.placed_on.get((arg, node))
        if awaiting is None:
            awaiting = self.placed_on[arg, node] = []
            source = min(self.copies[arg], key=lambda name: (self.load_of(name, node), name))
            self.transfers.start(arg, self.functions[arg].nbytes, source, node, self.now)
        return awaiting

    def load_of(self, source: str, target: str) -> float:
        """How long a byte takes from a node to another, with what moves now."""
        assert self.transfers is not None
        return (1 + self.transfers.load(source)) / self.transfers.network.between(source, target)

    def missing_on(self, node: str, function: SimulatedFunction) -> list[Hashable]:
        """Arguments that have a size and are not on a node."""
        if self.transfers is None:
            return []
        args = dict.fromkeys(function.args)
        return [arg for arg in args if self.functions[arg].nbytes and node not in self.copies[arg]]

    def look_later(self) -> None:
        """Look at the moves again when the next one begins or is over."""
        assert self.transfers is not None
        next_s = self.transfers.next_s()
        if next_s < math.inf:
            self.later(max(next_s, self.now), "moves", None)

    def move_on(self) -> None:
        """Start the functions whose last argument has arrived."""
        assert self.transfers is not None
        for arg, node in self.transfers.arrived(self.now):
            self.copies[arg][node] = None
            for place in self.placed_on.pop((arg, node)):
                awaited = self.awaited[place.function]
                awaited.remove(arg)
                if not awaited:
                    del self.awaited[place.function]
                    for started in self.nodes[node].arrives(place):
                        self.start(started)
        self.look_later()

    def report(self, place: Place) -> list[Event]:
        function = self.functions[place.function]
        took_s = function.duration_s
        self.copies[place.function] = {place.node: None}
        for arg in dict.fromkeys(function.args):
            self.takers[arg] -= 1
        events: list[Event] = [FunctionFinished(function=place.function, took_s=took_s)]
        if self.learned is not None:
            events += self.learned.learn(function)
        for dependent in self.dependents[place.function]:
            self.missing[dependent] -= 1
            if self.missing[dependent]:
                events += self.argument_ready(function, dependent)
            else:
                release_s = self.functions[dependent].release_s
                if release_s > self.now:
                    self.later(release_s, "released", dependent)
                else:
                    events.append(self.ready(dependent))
        return events


def settings_for(overhead_s: float) -> EngineSettings:
    """The engine's settings for a driver with this round trip, which the engine knows exactly.

    A simulated round trip never varies, so less is prefetched than on a cluster.
    """
    return replace(
        DEFAULT_SETTINGS,
        round_trip_s=overhead_s,
        prefetch_limit=64,
        timed_prefetch_lead_s=min(overhead_s, DEFAULT_SETTINGS.timed_prefetch_lead_s),
        timed_prefetches=4,
    )


def simulate(
    functions: Sequence[SimulatedFunction],
    nodes: Sequence[SimulatedNode],
    strategy: Strategy,
    *,
    ranks: Mapping[Hashable, float] | None = None,
    groups: Mapping[GroupKey, Demand] | None = None,
    shared: Mapping[str, float] | None = None,
    overhead_s: float = 0.0,
    network: SimulatedNetwork | None = None,
    durations_known: bool = True,
    durations_learned: bool = False,
    expected_s: Mapping[Hashable, float] | None = None,
    engine: PlacementEngine | None = None,
    idleness: bool = True,
) -> SimulatedRun:
    """Run functions on nodes under a virtual clock, placed by the engine.

    Parameters
    ----------
    functions
        In topological order.
    nodes
        All there from the beginning.
    strategy
        Of the run.
    ranks
        By function, larger goes earlier; the longest remaining path if absent.
    groups
        ``{collocation group: what its node must be able to hold}``.
    shared
        What all nodes share, licences say: ``{name: amount}``.
    overhead_s
        The round trip: half of it passes before a placed function starts, half before its end
        is known.
    network
        Moves arguments that have a size to where they are taken, before a function starts; without it
        data is everywhere at once.
    durations_known
        Whether the engine is told how long functions take, for sure.
    durations_learned
        Whether it is told what those that have ended have taught instead, and the order follows from that.
    expected_s
        Where it is told something else than the truth, by function.
    engine
        The engine to drive, a new one if absent.
    idleness
        Whether to work out the avoidable idleness, which takes as long as the rest.  It is not where
        something is shared: a node that idles may do so for want of that.

    Raises
    ------
    SimulationStuck
        If a function can never run.
    """
    engine = engine or PlacementEngine(settings_for(overhead_s))
    simulation = _Simulation(functions, engine, overhead_s, durations_known, network)
    simulation.ranks = ranks_of(functions) if ranks is None else ranks
    simulation.expected_s = expected_s or {}
    if durations_learned:
        simulation.learned = Learned(_RUN, functions, nodes)
    simulation.nodes = {node.name: _Node() for node in nodes}
    start: list[Event] = [
        NodeJoined(node=n.name, capabilities=n.capabilities, threads=n.threads) for n in nodes
    ]
    start += [SharedRegistered(name=name, total=units_of(name, has)) for name, has in (shared or {}).items()]
    if network is not None:
        start.append(_measured(network, nodes))
    costs = Counter(function.cost for function in functions)
    start.append(
        RunOpened(
            run=_RUN, strategy=strategy, groups=groups or {}, costs=costs, next_rank=simulation.next_rank
        )
    )
    for function in functions:
        if not function.args:
            if function.release_s > 0:
                simulation.later(function.release_s, "released", function.id)
            else:
                start.append(simulation.ready(function.id))
    simulation.tell(start)
    simulation.run()
    if len(simulation.spans) < len(functions):
        left = [f.id for f in functions if f.id not in simulation.spans]
        raise SimulationStuck({f: str(engine.explain(f, now=simulation.now)) for f in left})
    makespan_s = max((span.stop_s for span in simulation.spans.values()), default=0.0)
    return SimulatedRun(
        makespan_s,
        simulation.spans,
        simulation.events,
        simulation.decisions,
        avoidable_idle(functions, nodes, simulation.spans, grace_s=2 * overhead_s)
        if idleness and not shared
        else 0.0,
        0 if simulation.transfers is None else simulation.transfers.moved,
    )


def _measured(network: SimulatedNetwork, nodes: Sequence[SimulatedNode]) -> NetworkMeasured:
    names = [node.name for node in nodes]
    pairs = {
        (a, b): network.between(a, b) for a in names for b in names if {a, b} & set(network.slow) and a != b
    }
    return NetworkMeasured(bandwidth=network.bandwidth, latency_s=network.latency_s, pairs=pairs)
