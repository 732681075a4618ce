"""Whatever happens, in whatever order: nodes never hold too much, and nothing waits in vain."""

from __future__ import annotations

from collections.abc import Hashable
from fractions import Fraction
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from handoff_dask.placement.decisions import Decision, MoveData, Place, Reject, Wait
from handoff_dask.placement.engine import PlacementEngine
from handoff_dask.placement.events import (
    ClaimedElsewhere,
    DataArgument,
    Demand,
    DurationsLearned,
    Event,
    FunctionReady,
    FunctionWithdrawn,
    NetworkMeasured,
    NodeLeft,
    NodeMemory,
    OutsideWaits,
    ReturnedElsewhere,
    RunClosed,
    RunRanked,
    SharedRegistered,
    TimePassed,
)
from handoff_dask.placement.settings import EngineSettings
from handoff_dask.placement.strategies import AllocateStrategy, SelectStrategy
from handoff_dask.resources import Capabilities, Cost
from tests.placement.facts import changed, demand, finished, joined, opened, ready

NODES = ("a", "b", "c")
COSTS: list[dict[str, Any]] = [
    {},
    {"cpu": 1},
    {"cpu": 3},
    {"cpu": 1, "memory": 4},
    {"memory": 7},
    {"gpu": 1, "cpu": 1},
    {"cpu": 1, "zone": "eu"},
    {"gpu": 0.5},
    {"seats": 1},
    {"cpu": 1, "seats": 2},
]
#: What the whole cluster shares.
SEATS = "seats"
CAPABILITIES = st.fixed_dictionaries(
    {"cpu": st.integers(0, 6), "memory": st.integers(0, 10)},
    optional={"gpu": st.integers(0, 2), "zone": st.sampled_from(["eu", "us"]), "price": st.integers(0, 3)},
)
SETTINGS = EngineSettings(
    round_trip_s=0.02, prefetch_limit=3, aging_floor_s=2.0, timed_prefetch_lead_s=0.5, timed_prefetches=2
)
#: Nothing, what is no matter, and what takes 0.1 to 2 s to move.
ARGUMENTS = st.builds(
    DataArgument,
    key=st.integers(0, 3),
    nbytes=st.sampled_from([0, 1000, 10_000_000, 200_000_000]),
    nodes=st.lists(st.sampled_from(NODES), unique=True).map(tuple),
)
GROUPS = {"g": demand(cpu=3, memory=4), "h": demand(cpu=1, pin="b"), "i": demand(cpu=1)}


class Worker:
    """A node as it really is: what it has, who was sent there, and whom it lets run."""

    def __init__(self, capabilities: Capabilities, threads: int) -> None:
        self.measure(capabilities, threads)
        #: In the order in which they were sent.
        self.sent: dict[Hashable, tuple[Cost, tuple[int, int] | None]] = {}
        self.elsewhere: dict[Hashable, tuple[Cost, int]] = {}
        #: Which devices each function has; each that asks for any asks for one at most.
        self.devices: dict[Hashable, tuple[int, ...]] = {}
        #: Set when it was overdrawn by something that is not a placement.
        self.excused = False

    def measure(self, capabilities: Capabilities, threads: int) -> None:
        self.has = {"threads": threads, **capabilities.amounts}
        self.excused = True

    def gives(self, function: Hashable, devices: tuple[int, ...]) -> None:
        """Give devices to a function; nobody who runs has too much of one."""
        self.devices[function] = devices
        units = {function: dict(cost.amounts).get("gpu", 0) for function, (cost, _) in self.sent.items()}
        assert len(devices) == (units[function] > 0)
        # One that is held back takes over the devices of the one that it follows.
        held = [units[f] for f in self.running() if devices and self.devices[f] == devices]
        assert sum(held) <= 1_000_000

    def running(self) -> list[Hashable]:
        """Those that are not held back: each takes its share of its lane while it is admitted."""
        lanes: dict[int, Fraction] = {}
        running = []
        for function, (_, prefetch_queue) in self.sent.items():
            if prefetch_queue is not None:
                number, slots = prefetch_queue
                lanes[number] = lanes.get(number, Fraction(0)) + Fraction(1, slots)
                if lanes[number] > 1:
                    lanes[number] = Fraction(2)
                    continue
            running.append(function)
        return running

    def used(self) -> dict[str, int]:
        total: dict[str, int] = {}
        held = [(self.sent[function][0], 1) for function in self.running()]
        for cost, threads in [*held, *self.elsewhere.values()]:
            for name, units in [*cost.amounts, ("threads", threads)]:
                if name != SEATS:
                    total[name] = total.get(name, 0) + units
        return total

    def seats(self) -> int:
        held = [*(self.sent[function][0] for function in self.running())]
        held += [cost for cost, _ in self.elsewhere.values()]
        return sum(dict(cost.amounts).get(SEATS, 0) for cost in held)

    def is_over(self) -> bool:
        return any(units > self.has.get(name, 0) for name, units in self.used().items())


class AnyCourse(RuleBasedStateMachine):
    """Drives an engine with anything a driver may say, and believes nothing of what it answers."""

    runs = Bundle("runs")

    def __init__(self) -> None:
        super().__init__()
        self.engine = PlacementEngine(SETTINGS)
        self.now = 0.0
        self.workers: dict[str, Worker] = {}
        self.open: dict[int, Any] = {}
        self.failed: set[int] = set()
        self.waiting: dict[int, FunctionReady] = {}
        self.where: dict[int, str] = {}
        self.costs: dict[int, tuple[int, Demand]] = {}
        self.bound: dict[tuple[int, Hashable], str] = {}
        self.number = 0
        #: Functions that somebody else has sent: ``{number: (client, node)}``.
        self.tasks: dict[int, tuple[str, str]] = {}
        self.clients: list[str] = []
        #: How many seats there are; until it is said, there is no such resource.
        self.seats: int | None = None
        #: Whether there were fewer than held by what is no placement.
        self.seats_excused = False
        #: False from an event until all has been found in order.
        self.sound = True
        self.log: list[tuple[float, list[Event], list[Decision]]] = []
        for name in NODES[:2]:
            self.workers[name] = Worker(Capabilities.parse({"cpu": 4, "memory": 8}), 3)
            self.tell(joined(name, threads=3, address=f"tcp://{name}", cpu=4, memory=8))

    def tell(self, *events: Event, later: float = 0.1) -> None:
        self.sound = False
        self.now += later
        decisions = self.engine.handle_all(events, now=self.now)
        self.log.append((self.now, list(events), decisions))
        for decision in decisions:
            if isinstance(decision, Place):
                self.obey(decision)
            elif isinstance(decision, Wait):
                assert decision.function in self.waiting
                assert decision.cause
            elif isinstance(decision, MoveData):
                assert decision.function in self.waiting
                assert decision.node in self.workers
                taken = {argument.key for argument in self.waiting[decision.function].arguments}
                assert taken.issuperset(decision.data)
            else:
                assert isinstance(decision, Reject)
                run, _ = self.costs[decision.function]
                assert decision.run == run
                self.fail(run)

    def obey(self, place: Place) -> None:
        function = place.function
        event = self.waiting.pop(function)
        assert event.run not in self.failed
        worker = self.workers[place.node]
        was_running = worker.running()
        assert not worker.is_over()
        asks_seats = dict(event.demand.cost.amounts).get(SEATS, 0)
        worker.sent[function] = (event.demand.cost, place.prefetch_queue)
        worker.gives(function, place.devices)
        if function in worker.running():
            assert not worker.is_over(), (place, worker.used(), worker.has)
            worker.excused = False
            if asks_seats:
                assert self.seats_held() <= (self.seats or 0)
                self.seats_excused = False
        assert set(was_running) <= set(worker.running())
        self.where[function] = place.node
        demand_, run = event.demand, self.open[event.run]
        assert demand_.pin in (None, place.node, f"tcp://{place.node}")
        if run["nodes"] is not None:
            assert place.node in run["nodes"]
        if place.bound is not None:
            group, node = place.bound
            assert self.bound.setdefault((event.run, group), node) == node
        if demand_.group is not None:
            assert self.bound.setdefault((event.run, demand_.group), place.node) == place.node
        if demand_.binds is not None:
            assert (event.run, demand_.binds) in self.bound
        if run["max_concurrency"] is not None:
            running = [f for w in self.workers.values() for f in w.running() if self.costs[f][0] == event.run]
            assert len(running) <= run["max_concurrency"]

    def seats_held(self) -> int:
        return sum(worker.seats() for worker in self.workers.values())

    @rule(seats=st.integers(0, 4))
    def seats_are_registered(self, seats: int) -> None:
        self.seats, self.seats_excused = seats * 1_000_000, True
        self.tell(SharedRegistered(name=SEATS, total=self.seats))

    def fail(self, run: int) -> None:
        self.failed.add(run)
        self.waiting = {f: e for f, e in self.waiting.items() if e.run != run}

    @rule(name=st.sampled_from(NODES), capabilities=CAPABILITIES, threads=st.integers(1, 4))
    def node_joins(self, name: str, capabilities: dict[str, Any], threads: int) -> None:
        if name in self.workers:
            return
        self.workers[name] = Worker(Capabilities.parse(capabilities), threads)
        self.tell(joined(name, threads=threads, address=f"tcp://{name}", **capabilities))

    @rule(name=st.sampled_from(NODES), returning=st.booleans())
    def node_leaves(self, name: str, returning: bool) -> None:
        worker = self.workers.pop(name, None)
        for function in worker.sent if worker else ():
            del self.where[function]
        self.bound = {group: node for group, node in self.bound.items() if node != name}
        ended = self.tasks_end([task for task, (_, node) in self.tasks.items() if node == name], ran=False)
        self.tell(*ended, NodeLeft(node=name, returning=returning))

    @rule(
        name=st.sampled_from(NODES),
        capabilities=CAPABILITIES,
        threads=st.integers(0, 4),
        accepting=st.booleans(),
    )
    def node_changes(self, name: str, capabilities: dict[str, Any], threads: int, accepting: bool) -> None:
        if name in self.workers:
            self.workers[name].measure(Capabilities.parse(capabilities), threads)
        self.tell(changed(name, threads=threads, accepting=accepting, **capabilities))

    @rule(
        name=st.sampled_from(NODES),
        key=st.integers(0, 2),
        cpu=st.integers(0, 3),
        threads=st.integers(0, 1),
        seats=st.integers(0, 1),
    )
    def others_claim(self, name: str, key: int, cpu: int, threads: int, seats: int) -> None:
        # What nobody shares, and the node does not have, would leave it overdrawn.
        cost = Cost.parse({"cpu": cpu} if self.seats is None else {"cpu": cpu, "seats": seats})
        for worker in self.workers.values():
            worker.elsewhere.pop(key, None)
        if name in self.workers:
            self.workers[name].elsewhere[key] = (cost, threads)
            self.workers[name].excused = self.seats_excused = True
        else:
            self.tell(ReturnedElsewhere(claim=key))
        self.tell(ClaimedElsewhere(claim=key, node=name, cost=cost, threads=threads))

    @rule(
        name=st.sampled_from(NODES),
        cost=st.sampled_from(COSTS),
        count=st.integers(1, 3),
        client=st.sampled_from(["x", "z"]),
        begun=st.booleans(),
    )
    def tasks_are_sent(self, name: str, cost: dict[str, Any], count: int, client: str, begun: bool) -> None:
        """Somebody else sends functions of its own to a node, where they wait for room."""
        if name not in self.workers:
            return
        run, events = ("outside", client), []
        if client not in self.clients:
            self.clients.append(client)
            events.append(opened(run, client=client, outside=True, allocation_timeout_s=1e9))
        for _ in range(count):
            self.number += 1
            self.tasks[self.number] = (client, name)
            events.append(ready(("task", self.number), run=run, pin=name, begun=begun, **cost))
        self.tell(*events)

    @rule(which=st.integers(0, 9), ran=st.booleans())
    def a_task_ends(self, which: int, ran: bool) -> None:
        if self.tasks:
            self.tell(*self.tasks_end([sorted(self.tasks)[which % len(self.tasks)]], ran))

    def tasks_end(self, tasks: list[int], ran: bool) -> list[Event]:
        events: list[Event] = []
        for task in tasks:
            client, _ = self.tasks.pop(task)
            key = ("task", task)
            events += [finished(key)] if ran else [FunctionWithdrawn(function=key), finished(key)]
            if client not in [client for client, _ in self.tasks.values()]:
                self.clients.remove(client)
                events.append(RunClosed(run=("outside", client)))
        return events

    @rule(client=st.sampled_from(["x", "z"]), waits=st.booleans())
    def tasks_wait_elsewhere(self, client: str, waits: bool) -> None:
        self.tell(OutsideWaits(run=("outside", client), waits=waits))

    @rule(key=st.integers(0, 2))
    def others_return(self, key: int) -> None:
        for worker in self.workers.values():
            worker.elsewhere.pop(key, None)
        self.tell(ReturnedElsewhere(claim=key))

    @rule(
        target=runs,
        strategy=st.sampled_from(
            ["first_available", "load_balanced", "cost_optimized", "fastest", "select", "picky", "allocate"]
        ),
        confined=st.sampled_from([None, None, {"a": {"cpu": 2}, "tcp://b": {"memory": 4}}]),
        max_concurrency=st.sampled_from([None, None, 1, 3]),
        timeout_s=st.sampled_from([0.0, 0.5, 100.0]),
        permit=st.sampled_from([None, None, lambda function, node: (function + ord(node)) % 3 > 0]),
        turn=st.fixed_dictionaries(
            {},
            optional={
                "client": st.sampled_from(["x", "y"]),
                "priority": st.sampled_from([-1, 0.5]),
                "share": st.sampled_from([0.5, 3.0]),
            },
        ),
    )
    def run_opens(
        self,
        strategy: str,
        confined: Any,
        max_concurrency: int | None,
        timeout_s: float,
        permit: Any,
        turn: dict[str, Any],
    ) -> int:
        self.number += 1
        run = self.number
        nodes = None if confined is None else {n: Capabilities.parse(c) for n, c in confined.items()}
        chosen: Any = strategy
        if strategy == "select":
            chosen = SelectStrategy(select=lambda function, nodes: nodes[-1].name)
        elif strategy == "picky":
            chosen = SelectStrategy(
                select=lambda function, nodes: (
                    {n.name: n.name for n in nodes}.get("b") if function % 2 else "b"
                )
            )
        elif strategy == "allocate":
            chosen = AllocateStrategy(
                assign=lambda nodes: {n: next(iter(nodes)) for n in range(0, 100, 3) if nodes}
            )
        confined_names = None if confined is None else {n.removeprefix("tcp://") for n in confined}
        self.open[run] = {"nodes": confined_names, "max_concurrency": max_concurrency}
        self.tell(
            opened(
                run,
                chosen,
                nodes=nodes,
                max_concurrency=max_concurrency,
                allocation_timeout_s=timeout_s,
                groups=GROUPS,
                permit=permit,
                **turn,
            )
        )
        return run

    @rule(
        run=runs,
        costs=st.lists(st.sampled_from(COSTS), min_size=1, max_size=6),
        pin=st.sampled_from([None, None, None, "a", "tcp://b", "c"]),
        group=st.sampled_from([None, None, "g", "h", "i"]),
        binds=st.sampled_from([None, None, "g", "i"]),
        priority=st.integers(0, 1),
        rank=st.floats(0, 9),
        duration_s=st.sampled_from([None, 0.001, 0.01, 1.0]),
        certain=st.booleans(),
        arguments=st.lists(ARGUMENTS, max_size=3).map(tuple),
        frees=st.booleans(),
    )
    def functions_get_ready(
        self, run: int, costs: list[Any], pin: Any, group: Any, binds: Any, **order: Any
    ) -> None:
        if run not in self.open or run in self.failed:
            return
        if group is not None:
            costs, pin = [{"cpu": 1}] * len(costs), None
        events = []
        for cost in costs:
            self.number += 1
            wanted = demand(pin=pin, group=group, binds=binds if binds != group else None, **cost)
            event = FunctionReady(function=self.number, run=run, demand=wanted, **order)
            self.waiting[self.number] = event
            self.costs[self.number] = (run, wanted)
            events.append(event)
        self.tell(*events)

    def some(self, functions: list[int], pick: int) -> int | None:
        return functions[pick % len(functions)] if functions else None

    @rule(pick=st.integers(0, 99), later=st.sampled_from([0.0, 0.1, 3.0, 40.0]), many=st.integers(1, 4))
    def functions_finish(self, pick: int, later: float, many: int) -> None:
        events = []
        for _ in range(many):
            function = self.some([f for w in self.workers.values() for f in w.running()], pick)
            if function is not None:
                del self.workers[self.where.pop(function)].sent[function]
                events.append(finished(function))
        self.tell(*events, later=later)

    @rule(pick=st.integers(0, 99))
    def function_is_withdrawn(self, pick: int) -> None:
        function = self.some([*self.waiting, *self.where], pick)
        if function is not None:
            self.waiting.pop(function, None)
            self.tell(FunctionWithdrawn(function=function))

    @rule(pick=st.integers(0, 99))
    def function_runs_again(self, pick: int) -> None:
        function = self.some(list(self.where), pick)
        if function is None or self.costs[function][0] not in self.open:
            return
        run, wanted = self.costs[function]
        del self.workers[self.where.pop(function)].sent[function]
        event = FunctionReady(function=function, run=run, demand=wanted, rank=3.0)
        if run in self.failed:
            self.tell(finished(function))
        else:
            self.waiting[function] = event
            self.tell(event)

    @rule(run=consumes(runs))
    def run_closes(self, run: int) -> None:
        if self.open.pop(run, None) is not None:
            self.waiting = {f: e for f, e in self.waiting.items() if e.run != run}
            self.bound = {key: node for key, node in self.bound.items() if key[0] != run}
            self.tell(RunClosed(run=run))

    @rule(run=runs, rank=st.floats(0, 9))
    def run_is_ranked(self, run: int, rank: float) -> None:
        ranks = {f: (rank * f) % 7 for f, e in self.waiting.items() if e.run == run}
        self.tell(RunRanked(run=run, ranks=ranks))

    @rule(run=runs, duration_s=st.sampled_from([0.001, 0.5]))
    def durations_are_learned(self, run: int, duration_s: float) -> None:
        self.tell(DurationsLearned(run=run, durations=dict.fromkeys(self.waiting, duration_s)))

    @rule(bandwidth=st.sampled_from([1e6, 1e8, 1e10]), slow=st.sampled_from(NODES))
    def network_is_measured(self, bandwidth: float, slow: str) -> None:
        pairs = {(slow, name): bandwidth / 10 for name in NODES}
        self.tell(NetworkMeasured(bandwidth=bandwidth, latency_s=0.001, pairs=pairs))

    @rule(name=st.sampled_from(NODES), used=st.integers(0, 10))
    def memory_fills(self, name: str, used: int) -> None:
        self.tell(NodeMemory(node=name, used=used, limit=10))

    @rule(later=st.sampled_from([0.1, 5.0, 60.0]))
    def time_passes(self, later: float) -> None:
        self.tell(TimePassed(), later=later)

    @invariant()
    def everything_holds(self) -> None:
        self.engine.check()
        assert self.engine.waiting == len(self.waiting)
        assert self.engine.placed == len(self.where)
        for name, worker in self.workers.items():
            assert worker.excused or not worker.is_over(), name
        assert self.seats_excused or self.seats_held() <= (self.seats or 0)
        for function in self.waiting:
            assert str(self.engine.explain(function, now=self.now))
        self.sound = True

    def teardown(self) -> None:
        if not self.sound:
            return
        self.decides_the_same_again()
        self.leaves_nothing_behind()

    def decides_the_same_again(self) -> None:
        engine = PlacementEngine(SETTINGS)
        for now, events, decisions in self.log:
            assert engine.handle_all(events, now=now) == decisions

    def leaves_nothing_behind(self) -> None:
        self.tell(*self.tasks_end(list(self.tasks), ran=False))
        for run in list(self.open):
            self.waiting = {f: e for f, e in self.waiting.items() if e.run != run}
            del self.open[run]
            self.tell(RunClosed(run=run))
        for function in list(self.where):
            del self.workers[self.where.pop(function)].sent[function]
            self.tell(finished(function))
        for name in NODES:
            self.tell(NodeLeft(node=name))
        self.engine.check()
        assert self.engine.remembers() == {}


TestAnyCourse = AnyCourse.TestCase
TestAnyCourse.settings = settings(max_examples=60, stateful_step_count=40, report_multiple_bugs=False)
