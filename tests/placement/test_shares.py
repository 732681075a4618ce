"""Whose turn it is: what becomes free is shared between clients and runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from fractions import Fraction
from heapq import heappop, heappush
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handoff_dask.placement.decisions import Decision, Place
from handoff_dask.placement.engine import PlacementEngine
from handoff_dask.placement.events import ClaimedElsewhere, Event, FunctionWithdrawn, RunClosed, TimePassed
from handoff_dask.placement.settings import EngineSettings
from tests.placement.facts import SETTINGS, finished, joined, opened, placed, ready, waits


class Cluster:
    """Endless runs on a virtual clock: each run always has a function more that waits."""

    def __init__(self, *events: Event, settings: EngineSettings = SETTINGS) -> None:
        self.engine = PlacementEngine(settings)
        self.engine.handle_all(events, now=0)
        self.takes_s: dict[Hashable, float] = {}
        self.asks: dict[Hashable, dict[str, Any]] = {}
        self.number = 0
        self.ends: list[tuple[float, int, tuple[Hashable, int]]] = []
        self.running: Counter[Hashable] = Counter()
        #: Seconds times functions, by run.
        self.served: Counter[Hashable] = Counter()
        self.now = 0.0

    def endless(self, run: Hashable, takes_s: float = 1.0, waiting: int = 20, **asked: Any) -> None:
        self.takes_s[run], self.asks[run] = takes_s, asked or {"cpu": 1}
        self.tell(self.more(run) for _ in range(waiting))

    def more(self, run: Hashable) -> Event:
        self.number += 1
        return ready((run, self.number), run=run, **self.asks[run])

    def tell(self, events: Iterable[Event]) -> None:
        for decision in self.engine.handle_all(list(events), now=self.now):
            if isinstance(decision, Place):
                run = decision.function[0]
                self.running[run] += 1
                self.number += 1
                heappush(self.ends, (self.now + self.takes_s[run], self.number, decision.function))
        self.engine.check()

    def until(self, end_s: float) -> None:
        while self.ends and self.ends[0][0] <= end_s:
            then = self.ends[0][0]
            self.serve(then)
            over: list[Event] = []
            while self.ends and self.ends[0][0] <= then:
                function = heappop(self.ends)[2]
                self.running[function[0]] -= 1
                over += [finished(function), self.more(function[0])]
            self.tell(over)
        self.serve(end_s)

    def serve(self, then: float) -> None:
        for run, count in self.running.items():
            self.served[run] += count * (then - self.now)
        self.now = then


@pytest.mark.parametrize(
    ("shares", "held"),
    [((1.0, 1.0), (4, 4)), ((3.0, 1.0), (6, 2)), ((1.0, 7.0), (1, 7)), ((0.3, 0.1), (6, 2))],
)
def test_clients_hold_what_is_their_share(shares, held):
    runs = [opened(run, client=run, share=share) for run, share in zip("ab", shares, strict=True)]
    cluster = Cluster(joined("n", cpu=4), joined("m", cpu=4), *runs)
    cluster.endless("a", takes_s=1.0)
    cluster.endless("b", takes_s=0.7)

    cluster.until(20.0)

    assert (cluster.running["a"], cluster.running["b"]) == held


@pytest.mark.parametrize(("share", "served"), [(1.0, 30.0), (3.0, 45.0), (0.25, 12.0)])
def test_a_single_place_is_taken_in_turns(share, served):
    cluster = Cluster(joined("n", cpu=1), opened("a", client="a", share=share), opened("b", client="b"))
    cluster.endless("a", takes_s=0.5)
    cluster.endless("b", takes_s=0.1)

    cluster.until(60.0)

    assert cluster.served["a"] == pytest.approx(served, abs=1)


def test_clients_share_first_and_then_each_clients_runs():
    runs = [
        opened((client, n), client=client) for client, count in (("x", 3), ("y", 1)) for n in range(count)
    ]
    cluster = Cluster(joined("n", cpu=12, threads=12), *runs)
    for run in runs:
        cluster.endless(run.run)

    cluster.until(20.0)

    assert cluster.running == {("x", 0): 2, ("x", 1): 2, ("x", 2): 2, ("y", 0): 6}


def test_a_client_weighs_as_much_as_the_weightiest_of_its_runs():
    runs = [opened("a", client="x", share=3.0), opened("b", client="x"), opened("c", client="y")]
    cluster = Cluster(joined("n", cpu=16, threads=16), *runs)
    for run in "abc":
        cluster.endless(run)
    cluster.until(20.0)
    assert cluster.running == {"a": 9, "b": 3, "c": 4}

    cluster.tell([RunClosed(run="a")])
    cluster.until(40.0)

    assert cluster.running["b"] == 8


def test_dominant_share_is_of_whatever_is_held_most():
    """The example of the paper: 9 cores and 18 GB; one asks for 1 and 4, the other for 3 and 1."""
    node = joined("n", threads=100, cpu=9, memory=18)
    cluster = Cluster(node, opened("a", client="a"), opened("b", client="b"))
    cluster.endless("a", cpu=1, memory=4)
    cluster.endless("b", cpu=3, memory=1)

    cluster.until(30.0)

    assert cluster.running == {"a": 3, "b": 2}


def test_threads_count_too():
    cluster = Cluster(joined("n", threads=4, cpu=100), opened("a", client="a"), opened("b", client="b"))
    cluster.endless("a", cpu=1)
    cluster.endless("b", waiting=20, cpu=0)

    cluster.until(10.0)

    assert cluster.running == {"a": 2, "b": 2}


def test_a_short_run_goes_before_what_a_long_one_has_waiting(make_engine):
    engine = make_engine(joined("n", cpu=2), opened("long", client="a"))
    engine.handle_all([ready(("long", n), run="long", cpu=1, rank=9) for n in range(9)], now=1)
    assert engine.handle_all([opened("short", client="b"), ready("s", run="short", cpu=1)], now=2)
    engine.handle(ready("t", run="short", cpu=1), now=2)

    assert placed(engine.handle(finished(("long", 0)), now=3)) == {"s": "n"}
    assert placed(engine.handle(finished(("long", 1)), now=4)) == {("long", 2): "n"}
    assert placed(engine.handle(finished("s"), now=5)) == {"t": "n"}


@pytest.mark.parametrize(("first", "expected"), [(1, "late"), (0, "early"), (-0.5, "early")])
def test_priority_of_a_run_counts_before_all_else(make_engine, first, expected):
    engine = make_engine(joined("n", cpu=1), opened("early", client="a"))
    engine.handle(ready("running", run="early", cpu=1), now=1)
    engine.handle_all(
        [opened("late", client="a", priority=first), opened("x", client="a", priority=-9)], now=1
    )
    engine.handle_all(
        [ready("early", run="early", cpu=1, priority=9, rank=9), ready("x", run="x", cpu=1)], now=2
    )
    engine.handle(ready("late", run="late", cpu=1, rank=-1), now=2)
    if first == 0:
        # It held less up to now.
        expected = "late"

    assert placed(engine.handle(finished("running"), now=3)) == {expected: "n"}


def test_nobody_waits_so_that_a_share_stays_unused():
    cluster = Cluster(joined("n", cpu=4), opened("a", client="a"), opened("idle", client="b", share=9.0))

    cluster.endless("a")

    assert cluster.running["a"] == 4


def test_who_cannot_use_what_is_free_does_not_keep_others_from_it(make_engine):
    engine = make_engine(
        joined("n", cpu=2), joined("g", gpu=1), opened("a", client="a"), opened("b", client="b")
    )
    engine.handle_all([ready(n, run="a", cpu=1) for n in range(4)], now=1)
    engine.handle_all([ready(("gpu", n), run="b", gpu=1) for n in range(2)], now=1)

    assert placed(engine.handle(finished(0), now=2)) == {2: "n"}


def test_large_functions_are_not_passed_over_by_another_run(make_engine):
    """It is the turn of the run that waits for a whole node, so a node is cleared for it."""
    engine = make_engine(joined("n", cpu=4), opened("small", client="a"), opened("large", client="b"))
    engine.handle_all([ready(n, run="small", cpu=1, duration_s=1.0) for n in range(30)], now=0)
    engine.handle(ready("whole", run="large", cpu=4, duration_s=1.0), now=0.1)
    started: dict[Hashable, str] = {}
    running = list(range(4))
    for step in range(1, 30):
        if "whole" in started or not running:
            break
        new = placed(engine.handle(finished(running.pop(0)), now=step / 2))
        started.update(new)
        running += [function for function in new if function != "whole"]

    assert "whole" in started


def test_what_is_held_of_a_closed_run_counts_for_its_client(make_engine):
    engine = make_engine(joined("n", cpu=2), opened("old", client="a"))
    engine.handle_all([ready(n, run="old", cpu=1) for n in range(2)], now=1)
    engine.handle_all([RunClosed(run="old"), opened("new", client="a"), opened("other", client="b")], now=2)
    engine.handle_all([ready("new", run="new", cpu=1), ready("other", run="other", cpu=1)], now=3)

    assert placed(engine.handle(finished(0), now=4)) == {"other": "n"}
    engine.handle_all([finished(1), finished("other"), finished("new")], now=5)
    engine.handle_all([RunClosed(run="new"), RunClosed(run="other")], now=6)
    assert engine.holdings() == []


def test_levels_follow_the_nodes(make_engine):
    """A client that held little holds much once most of the cluster is gone."""
    engine = make_engine(
        joined("n", cpu=1, gpu=1), joined("m", gpu=3, cpu=3), opened("a", client="a"), opened("b", client="b")
    )
    engine.handle_all([ready("f", run="a", gpu=1, cpu=1), ready("g", run="b", cpu=2)], now=1)
    assert {h.run: h.share for h in engine.holdings()} == {"a": 0.25, "b": 0.5}

    engine.handle(joined("o", cpu=16), now=2)

    assert {h.run: h.share for h in engine.holdings()} == {"a": 0.25, "b": 0.1}


@pytest.mark.parametrize("client", ["a", "b"])
def test_short_functions_of_one_run_leave_places_to_the_other(client):
    """A prefetch queue is not continued for a run that holds more than its share."""
    settings = EngineSettings(round_trip_s=0.04)
    cluster = Cluster(
        joined("n", cpu=4, threads=4), opened("a", client="a"), opened("b", client=client), settings=settings
    )
    cluster.engine.handle_all(
        [ready(("a", n), run="a", cpu=1, duration_s=0.001) for n in range(5_000)], now=0
    )
    sent = cluster.engine.placed
    assert sent > 100

    cluster.engine.handle_all(
        [ready(("b", n), run="b", cpu=1, duration_s=0.001) for n in range(500)], now=0.01
    )
    for number in range(sent):
        cluster.engine.handle(finished(("a", number), took_s=0.001), now=0.02)
        if {h.run: h.share for h in cluster.engine.holdings()} == {"a": 0.5, "b": 0.5}:
            break

    assert {h.run: h.share for h in cluster.engine.holdings()} == {"a": 0.5, "b": 0.5}
    cluster.engine.check()


RUNS = {"a": ("x", 0, 1.0), "b": ("x", 0, 2.0), "c": ("y", 0, 1.0), "d": ("z", 1, 1.0)}
COSTS = [{"cpu": 1}, {"cpu": 3}, {"memory": 5}, {"cpu": 1, "memory": 1}, {}]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(sorted(RUNS)), st.integers(0, len(COSTS) - 1)),
        st.integers(0, 9).map(lambda which: ("ends", which)),
        st.integers(0, 9).map(lambda which: ("withdrawn", which)),
    ),
    max_size=60,
)


NODES = {"n": {"cpu": 4, "memory": 8, "threads": 5}, "m": {"cpu": 2, "memory": 10, "threads": 3}}
TOTAL = {name: sum(node[name] for node in NODES.values()) for name in ("cpu", "memory", "threads")}


class Bookkeeper:
    """Works out whose turn it is, with fractions, from nothing but the events and the decisions."""

    def __init__(self) -> None:
        self.free = {name: dict(node) for name, node in NODES.items()}
        self.waiting: dict[int, tuple[str, dict[str, int]]] = {}
        self.running: dict[int, tuple[str, str, dict[str, int]]] = {}

    def dominant(self, runs: Iterable[str]) -> Fraction:
        held: Counter[str] = Counter()
        for run, _, asked in self.running.values():
            if run in runs:
                held.update(asked)
        return max((Fraction(units, TOTAL[name]) for name, units in held.items()), default=Fraction(0))

    def turn(self, run: str) -> tuple[Fraction, ...]:
        client, priority, share = RUNS[run]
        of_client = [r for r in RUNS if RUNS[r][0] == client]
        weight = Fraction(max(RUNS[r][2] for r in of_client))
        return (
            Fraction(-priority),
            self.dominant(of_client) / weight,
            self.dominant([run]) / Fraction(share),
        )

    def obey(self, decisions: list[Decision]) -> None:
        for place in (d for d in decisions if isinstance(d, Place)):
            room = self.free[place.node]
            could = {r for r, asked in self.waiting.values() if all(room[n] >= u for n, u in asked.items())}
            run, asked = self.waiting.pop(place.function)
            assert self.turn(run) == min(map(self.turn, could)), (run, could)
            self.running[place.function] = (run, place.node, asked)
            for name, units in asked.items():
                room[name] -= units

    def ends(self, function: int) -> None:
        _, node, asked = self.running.pop(function)
        for name, units in asked.items():
            self.free[node][name] += units


@given(steps=STEPS)
def test_whoever_is_given_room_holds_least_of_those_that_could_use_it(steps):
    book, engine = Bookkeeper(), PlacementEngine(EngineSettings(aging_floor_s=1e9))
    facts = [joined(name, **capabilities) for name, capabilities in NODES.items()]
    opens = [opened(run, client=c, priority=p, share=s) for run, (c, p, s) in RUNS.items()]
    book.obey(engine.handle_all([*facts, *opens], now=0))
    for now, (what, which) in enumerate(steps, 1):
        some = sorted(book.running if what == "ends" else book.waiting)
        if what in RUNS:
            book.waiting[now] = (what, {"threads": 1, **COSTS[which]})
            book.obey(engine.handle(ready(now, run=what, **COSTS[which]), now=now))
        elif what == "ends" and some:
            book.ends(some[which % len(some)])
            book.obey(engine.handle(finished(some[which % len(some)]), now=now))
        elif some:
            del book.waiting[some[which % len(some)]]
            book.obey(engine.handle(FunctionWithdrawn(function=some[which % len(some)]), now=now))
        engine.check()


@pytest.mark.parametrize("runs", [30])
def test_many_runs_take_turns(runs):
    cluster = Cluster(
        joined("n", cpu=6, threads=6), *(opened(n, client=n % 3, share=1.0) for n in range(runs))
    )
    for run in range(runs):
        cluster.endless(run, waiting=2)

    cluster.until(100.0)

    assert max(cluster.served.values()) - min(cluster.served.values()) <= 2


def test_claims_of_others_are_nobodys_share(make_engine):
    engine = make_engine(joined("n", cpu=2), opened("a"), opened("b"))
    engine.handle(ClaimedElsewhere(claim=1, node="n", threads=1), now=1)
    engine.handle(ready("f", run="a", cpu=1), now=1)
    assert {h.run: h.share for h in engine.holdings()} == {"a": 0.5, "b": 0.0}
    assert waits(engine.handle_all([ready("g", run="b", cpu=2), TimePassed()], now=2)) == {"g": "room"}
