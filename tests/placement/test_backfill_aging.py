"""Nobody waits for ever, and hardly a node is kept idle for that."""

from __future__ import annotations

import pytest

from handoff_dask.placement.events import (
    ClaimedElsewhere,
    DurationsLearned,
    FunctionWithdrawn,
    NodeLeft,
    ReturnedElsewhere,
    TimePassed,
)
from handoff_dask.placement.strategies import SelectStrategy
from tests.placement.facts import changed, finished, joined, opened, placed, ready, waits


class Stream:
    """Functions that keep coming, four a second, and run for a second each."""

    def __init__(self, engine, **asked):
        self.engine, self.asked = engine, asked
        self.now = 0.0
        self.ends = []
        #: When each was placed.
        self.started = {}

    def tell(self, *events):
        over = [finished(f) for end, f in self.ends if end <= self.now]
        self.ends = [(end, f) for end, f in self.ends if end > self.now]
        for function in placed(self.engine.handle_all([*over, *events], now=self.now)):
            self.started[function] = self.now
            self.ends.append((self.now + 1.0, function))
        self.engine.check()

    def flow(self, until_s):
        while self.now < until_s:
            self.now += 0.25
            self.tell(ready(self.now, **self.asked))


def test_wide_function_is_not_starved_by_small_ones_that_keep_coming(make_engine):
    stream = Stream(make_engine(joined("a", cpu=4)), cpu=1)
    stream.flow(2.0)
    stream.tell(ready("wide", cpu=4))
    stream.flow(60.0)
    # Patience is four times the second that functions take; then the node has to drain.
    assert 6.0 < stream.started["wide"] <= 8.0


def test_function_of_low_rank_is_not_starved_by_its_like(make_engine):
    stream = Stream(make_engine(joined("a", cpu=3)), cpu=1, rank=1)
    stream.flow(2.0)
    stream.tell(ready("last", cpu=1, rank=0))
    stream.flow(60.0)
    assert 18.0 < stream.started["last"] <= 21.0


def test_small_functions_of_another_run_do_not_starve_anybody(make_engine):
    engine = make_engine(joined("a", cpu=2, memory=4), opened("big", "load_balanced"), opened())
    stream = Stream(engine, cpu=0.5, rank=9)
    stream.flow(2.0)
    stream.tell(*(ready((run, cost), run="big", cpu=cost, memory=4) for run, cost in enumerate([2, 1, 1.5])))
    stream.flow(60.0)
    assert {f for f in stream.started if isinstance(f, tuple)} == {(0, 2), (1, 1), (2, 1.5)}


def test_function_of_higher_priority_is_never_held_back(make_engine):
    engine = make_engine(joined("a", cpu=2))
    engine.handle_all([ready("f", cpu=1), ready("wide", cpu=2)], now=0)
    engine.handle(TimePassed(), now=5)
    assert engine.nodes()["a"].reserved_for == "wide"
    decisions = engine.handle_all([ready("low", cpu=1), ready("urgent", cpu=1, priority=1)], now=6)
    assert (placed(decisions), waits(decisions)) == ({"urgent": "a"}, {"low": "room"})
    assert engine.handle(finished("urgent"), now=7) == []
    assert str(engine.explain("low", now=7).nodes["a"]) == "is reserved for 'wide'"
    assert placed(engine.handle(finished("f"), now=8)) == {"wide": "a"}
    assert engine.nodes()["a"].reserved_for is None


def reserved(make_engine, *, capabilities, running, wide):
    """An engine with one node that is being cleared for a wide function, at 5 s."""
    engine = make_engine(joined("a", **capabilities), joined("s", disk=1))
    engine.handle_all([*running, ready("wide", **wide)], now=0)
    engine.handle(TimePassed(), now=5)
    assert engine.nodes()["a"].reserved_for == "wide"
    return engine


def test_what_ends_before_may_start_on_a_reserved_node(make_engine):
    engine = reserved(
        make_engine, capabilities={"cpu": 4}, running=[ready("f", cpu=3, duration_s=20)], wide={"cpu": 4}
    )
    decisions = engine.handle_all(
        [
            ready("long", cpu=1, duration_s=16),
            ready("unknown", cpu=0.5),
            ready("brief", cpu=0.7, duration_s=14),
        ],
        now=6,
    )
    held = {"long": "reservation", "unknown": "reservation"}
    assert (placed(decisions), waits(decisions)) == ({"brief": "a"}, held)
    # It has taken longer than expected; nothing else may delay the wide one any further.
    engine.handle(finished("brief"), now=21)
    assert list(waits(engine.handle(ready("late", cpu=1, duration_s=0.1), now=21))) == ["late"]


def test_what_fits_beside_may_start_on_a_reserved_node(make_engine):
    engine = reserved(
        make_engine, capabilities={"cpu": 4}, running=[ready("f", cpu=2), ready("g", cpu=1)], wide={"cpu": 3}
    )
    decisions = engine.handle_all([ready("one", cpu=1), ready("two", cpu=1)], now=6)
    assert (placed(decisions), list(waits(decisions))) == ({"one": "a"}, ["two"])
    assert placed(engine.handle(finished("one"), now=7)) == {"two": "a"}
    assert placed(engine.handle_all([finished("f"), finished("g")], now=8)) == {"wide": "a"}


def test_reservation_is_made_where_the_function_will_fit_earliest(make_engine):
    engine = make_engine(joined("a", cpu=2), joined("b", cpu=2), joined("c", cpu=1))
    events = [ready("f", cpu=1, pin="a", duration_s=30), ready("g", cpu=1, pin="b", duration_s=20)]
    engine.handle_all([*events, ready("wide", cpu=2)], now=0)
    engine.handle(TimePassed(), now=9)
    assert [n.reserved_for for n in engine.nodes().values()] == [None, "wide", None]


def test_only_those_who_must_end_are_waited_for(make_engine):
    engine = make_engine(joined("a", cpu=4), joined("b", cpu=2))
    running = [("f", "a", 10), ("g", "a", 50), ("h", "a", 60), ("i", "b", 20), ("j", "b", 11)]
    engine.handle_all([ready(f, cpu=1, pin=node, duration_s=end) for f, node, end in running], now=0)
    engine.handle(ready("wide", cpu=2), now=0)
    engine.handle(TimePassed(), now=9)
    # On a one function has to end, on b both.
    assert [n.reserved_for for n in engine.nodes().values()] == ["wide", None]
    assert list(waits(engine.handle(ready("k", cpu=1, pin="a", duration_s=2), now=9))) == ["k"]


def test_reservation_is_made_where_least_is_missing_if_no_duration_is_known(make_engine):
    engine = make_engine(joined("a", cpu=4), joined("b", cpu=4))
    engine.handle_all([ready("f", cpu=3, pin="a"), ready("g", cpu=2, pin="b"), ready("wide", cpu=4)], now=0)
    engine.handle(TimePassed(), now=9)
    assert [n.reserved_for for n in engine.nodes().values()] == [None, "wide"]


def test_reservation_ends_with_what_it_was_made_for(make_engine):
    engine = reserved(make_engine, capabilities={"cpu": 2}, running=[ready("f", cpu=1)], wide={"cpu": 2})
    assert waits(engine.handle(ready("g", cpu=1), now=6)) == {"g": "reservation"}
    assert placed(engine.handle(FunctionWithdrawn(function="wide"), now=7)) == {"g": "a"}
    assert engine.nodes()["a"].reserved_for is None


def test_reservation_ends_when_the_function_starts_elsewhere(make_engine):
    engine = reserved(make_engine, capabilities={"cpu": 2}, running=[ready("f", cpu=1)], wide={"cpu": 2})
    assert waits(engine.handle(ready("g", cpu=1), now=6)) == {"g": "reservation"}
    assert placed(engine.handle(joined("b", cpu=2), now=7)) == {"wide": "b", "g": "a"}


@pytest.mark.parametrize(
    "event", [NodeLeft(node="a"), changed("a", cpu=4), ClaimedElsewhere(claim=1, node="a", threads=1)]
)
def test_reservation_ends_when_its_node_is_not_what_it_was(make_engine, event):
    engine = reserved(make_engine, capabilities={"cpu": 2}, running=[ready("f", cpu=1)], wide={"cpu": 2})
    engine.handle(event, now=5.1)
    assert "a" not in engine.nodes() or engine.nodes()["a"].reserved_for is None


def test_no_node_is_reserved_that_others_hold(make_engine):
    engine = make_engine(joined("a", cpu=2))
    engine.handle(ClaimedElsewhere(claim=1, node="a", threads=8), now=0)
    engine.handle(ready("f", cpu=1), now=0)
    engine.handle(TimePassed(), now=9)
    assert engine.nodes()["a"].reserved_for is None
    assert placed(engine.handle(ReturnedElsewhere(claim=1), now=10)) == {"f": "a"}


def test_no_node_is_reserved_for_those_whom_room_does_not_help(make_engine):
    strategy = SelectStrategy(select=lambda function, nodes: None)
    engine = make_engine(
        joined("a", cpu=2),
        joined("b", cpu=2),
        opened("full", max_concurrency=1),
        opened("picky", strategy),
        opened("nowhere", allocation_timeout_s=99),
    )
    events = [
        ready("f", run="full", cpu=1),
        ready("g", run="full", cpu=1),
        ready("h", run="picky", cpu=1),
        ready("i", run="nowhere", pin="c"),
    ]
    engine.handle_all(events, now=0)
    engine.handle(TimePassed(), now=9)
    assert [n.reserved_for for n in engine.nodes().values()] == [None, None]


def test_reservation_on_the_one_node_that_will_do(make_engine):
    engine = make_engine(joined("a", cpu=2), joined("b", cpu=2))
    engine.handle_all([ready("f", cpu=1, pin="a"), ready("wide", cpu=2, pin="a")], now=0)
    engine.handle(TimePassed(), now=9)
    assert [n.reserved_for for n in engine.nodes().values()] == ["wide", None]


def test_one_node_in_eight_may_be_reserved(make_engine):
    engine = make_engine(*(joined(f"n{n:02}", cpu=2) for n in range(16)))
    engine.handle_all([ready(n, cpu=1, pin=f"n{n:02}") for n in range(16)], now=0)
    engine.handle_all([ready(f"wide{n}", cpu=2, memory=0, disk=0, pin=f"n{n:02}") for n in range(5)], now=0)
    engine.handle(TimePassed(), now=9)
    assert [n.reserved_for for n in engine.nodes().values() if n.reserved_for] == ["wide0", "wide1"]


def test_one_that_waits_for_its_turn_in_its_own_run_is_not_passed_over(make_engine):
    """Better ones of its run go before it for as long as there are some: that is the order, not unfair."""
    engine = make_engine(joined("a", cpu=2), joined("s", disk=1))
    engine.handle_all([ready(n, cpu=1, rank=5, duration_s=0.5) for n in range(40)], now=0)
    engine.handle(ready("last", cpu=2, rank=1), now=0)
    for n in range(20):
        now = n / 4
        assert "last" not in placed(engine.handle(finished(n), now=now))
    assert engine.nodes()["a"].reserved_for is None
    # Beside another run it is a matter of fairness again.
    engine.handle_all([opened("other"), TimePassed()], now=6)
    assert engine.nodes()["a"].reserved_for == "last"


def test_a_lane_drains_for_a_reservation(make_engine):
    engine = make_engine(joined("a", cpu=2), joined("s", disk=1))
    engine.handle_all([ready(n, cpu=1, duration_s=0.01) for n in range(50)], now=0)
    engine.handle(ready("wide", cpu=2, rank=1), now=0)
    engine.handle(TimePassed(), now=3)
    assert engine.nodes()["a"].reserved_for == "wide"
    assert [list(placed(engine.handle(finished(n), now=3))) for n in range(6)] == [*[[]] * 5, ["wide"]]


def test_new_head_of_a_queue_is_tried_on_a_reserved_node(make_engine):
    engine = reserved(make_engine, capabilities={"cpu": 2}, running=[ready("f", cpu=1)], wide={"cpu": 2})
    assert waits(engine.handle(ready("g", cpu=1), now=6)) == {"g": "reservation"}
    assert placed(engine.handle(ready("urgent", cpu=1, priority=1), now=6)) == {"urgent": "a"}


def test_head_whose_duration_is_learned_is_tried_on_a_reserved_node(make_engine):
    running = [ready("f", cpu=1, duration_s=20)]
    engine = reserved(make_engine, capabilities={"cpu": 2}, running=running, wide={"cpu": 2})
    assert waits(engine.handle_all([ready("g", cpu=1), ready("h", cpu=1)], now=6)) == {
        "g": "reservation",
        "h": "reservation",
    }
    assert engine.handle(DurationsLearned(run="run", durations={"f": 9, "g": 30}), now=6) == []
    assert placed(engine.handle(DurationsLearned(run="run", durations={"g": 9}), now=6)) == {"g": "a"}


def test_reservation_ends_when_what_it_was_made_for_is_sent_ahead(make_engine):
    engine = make_engine(joined("a", cpu=1), joined("b", cpu=1), prefetch_limit=1)
    engine.handle(ready("x", cpu=1, pin="a", duration_s=0.5), now=0)
    decisions = engine.handle_all([ready(n, cpu=1, duration_s=0.01) for n in range(3)], now=0)
    assert placed(decisions) == {0: "b", 1: "b"}
    # All take far longer than expected.
    engine.handle(TimePassed(), now=9)
    assert [n.reserved_for for n in engine.nodes().values()] == [2, None]
    assert placed(engine.handle(finished(0), now=10)) == {2: "b"}
    assert [n.reserved_for for n in engine.nodes().values()] == [None, None]


def test_shorter_function_behind_the_head_of_its_queue_may_slip_in(make_engine):
    running = [ready("f", cpu=2, duration_s=20)]
    engine = reserved(make_engine, capabilities={"cpu": 4}, running=running, wide={"cpu": 4})
    # It fits until 20 s; of equals the first in order goes.
    events = [
        ready("long", cpu=1, duration_s=16, rank=9),
        ready("third", cpu=1, duration_s=14),
        ready("second", cpu=1, duration_s=14, rank=1),
        ready("first", cpu=1, duration_s=13, rank=2),
    ]
    decisions = engine.handle_all(events, now=6)
    assert placed(decisions) == {"first": "a", "second": "a"}
    assert list(waits(decisions)) == ["long", "third"]
    assert engine.handle(finished("first"), now=7) == []
    # The one that gets ready is short enough, and so is one that turns out to be.
    assert placed(engine.handle(ready("late", cpu=1, duration_s=12), now=8)) == {"late": "a"}
    assert engine.handle(finished("late"), now=9) == []
    assert placed(engine.handle(DurationsLearned(run="run", durations={"third": 9}), now=10)) == {
        "third": "a"
    }
    assert list(waits(engine.handle(ready("longer", cpu=1, duration_s=17), now=10))) == ["longer"]


def test_function_behind_the_head_starts_once_there_is_room(make_engine):
    running = [ready("f", cpu=3, duration_s=20), ready("g", cpu=1, duration_s=1)]
    engine = reserved(make_engine, capabilities={"cpu": 4}, running=running, wide={"cpu": 4})
    engine.handle_all(
        [ready("long", cpu=1, duration_s=16, rank=9), ready("brief", cpu=1, duration_s=9)], now=6
    )
    assert placed(engine.handle(finished("g"), now=7)) == {"brief": "a"}


def test_nobody_slips_in_where_it_must_not_run(make_engine):
    engine = reserved(
        make_engine, capabilities={"cpu": 4}, running=[ready("f", cpu=3, duration_s=20)], wide={"cpu": 4}
    )
    on_s = [ready(n, disk=1, duration_s=s, rank=s) for n, s in enumerate([30, 2, 1])]
    assert placed(engine.handle_all(on_s, now=6)) == {0: "s"}
