"""A long function is sent shortly before the one ends whose room it takes over."""

from __future__ import annotations

import pytest

from handoff_dask.placement.decisions import Place
from handoff_dask.placement.events import ClaimedElsewhere, FunctionWithdrawn, NodeLeft, RunClosed, TimePassed
from handoff_dask.placement.strategies import SelectStrategy
from handoff_dask.resources import Capabilities
from tests.placement.facts import changed, finished, joined, opened, placed, ready, waits

LEAD_S = 0.02


def sure(function, duration_s=1.0, **more):
    """One of which it is known when it will end."""
    return ready(function, **{"cpu": 1, "duration_s": duration_s, "certain": True, **more})


def lanes(decisions):
    return {d.function: (d.node, d.prefetch_queue) for d in decisions if isinstance(d, Place)}


@pytest.fixture
def make_trusting(make_engine):
    """Engines that have seen so many expected ends come true that they count on them."""

    def make(*events, **options):
        engine = make_engine(*events, **options)
        engine.handle_all([joined("school", cpu=1), opened("lessons")], now=0)
        for n in range(50):
            engine.handle(sure(("lesson", n), run="lessons", pin="school"), now=n)
            engine.handle(finished(("lesson", n)), now=n + 1)
        engine.handle_all([RunClosed(run="lessons"), NodeLeft(node="school")], now=50)
        return engine

    return make


def test_next_function_is_sent_shortly_before_room_is_free(make_trusting):
    engine = make_trusting(joined("a", cpu=1))
    decisions = engine.handle_all([sure("f"), sure("g"), sure("h")], now=100)
    assert lanes(decisions) == {"f": ("a", (4, 1))}
    assert engine.next_deadline() == pytest.approx(101 - LEAD_S)
    assert engine.handle(TimePassed(), now=100.9) == []
    assert lanes(engine.handle(TimePassed(), now=101 - LEAD_S)) == {"g": ("a", (4, 1))}
    # It holds nothing of its own; at most one is sent.
    assert engine.available("a") == {"cpu": 0}
    assert engine.nodes()["a"].placed == ("f", "g")
    assert engine.handle(TimePassed(), now=101) == []
    assert engine.next_deadline() is None
    engine.check()
    assert engine.handle(finished("f"), now=101) == []
    assert engine.available("a") == {"cpu": 0}
    assert engine.next_deadline() == pytest.approx(102 - LEAD_S)
    assert lanes(engine.handle(TimePassed(), now=102)) == {"h": ("a", (4, 1))}
    engine.handle_all([finished("g"), finished("h")], now=103)
    assert engine.available("a") == {"cpu": 1}
    assert engine.next_deadline() is None


def test_successor_that_asks_for_less_leaves_the_rest_to_others(make_trusting):
    engine = make_trusting(joined("a", cpu=4))
    engine.handle_all([sure("f", cpu=4), ready("g", cpu=1), ready("h", cpu=3)], now=100)
    assert lanes(engine.handle(TimePassed(), now=101)) == {"g": ("a", (4, 1))}
    assert placed(engine.handle(finished("f"), now=101)) == {"h": "a"}
    assert engine.available("a") == {"cpu": 0}


def test_nobody_is_sent_while_expected_ends_have_not_proved_true(make_engine):
    engine = make_engine(joined("a", cpu=1))
    assert lanes(engine.handle_all([sure("f"), sure("g")], now=0)) == {"f": ("a", (4, 1))}
    assert engine.handle(TimePassed(), now=1) == []
    assert placed(engine.handle(finished("f"), now=1)) == {"g": "a"}


def test_nobody_is_sent_once_expected_ends_have_proved_wrong(make_trusting):
    engine = make_trusting(joined("a", cpu=1))
    for n in range(3):
        engine.handle(sure(n), now=100)
        engine.handle(finished(n), now=102)
    engine.handle_all([sure("f"), sure("g")], now=200)
    assert engine.handle(TimePassed(), now=201) == []


def test_round_trip_is_no_error(make_engine):
    engine = make_engine(joined("a", cpu=1))
    for n in range(100):
        engine.handle(sure(n), now=n)
        engine.handle(finished(n), now=n + 1.015)
        # Too short to tell.
        engine.handle(sure((n, "short"), duration_s=0.01), now=n + 0.6)
        engine.handle(finished((n, "short")), now=n + 0.9)
    engine.handle_all([sure("f"), sure("g"), sure("h")], now=200)
    assert placed(engine.handle(TimePassed(), now=201)) == {"g": "a"}
    engine.handle(finished("f"), now=201.015)
    # The second began when the first ended, not when that was known.
    assert engine.next_deadline() == pytest.approx(202 - LEAD_S)


@pytest.mark.parametrize(
    "first",
    [
        {"certain": False},
        {"duration_s": None},
        # What takes its result goes first.
        {"rank": 2.5, "duration_s": 1.0},
        {"priority": 1, "rank": 0},
    ],
)
def test_nobody_is_sent_behind(make_trusting, first):
    engine = make_trusting(joined("a", cpu=1))
    engine.handle(sure("f", **{"rank": 2.0, **first}), now=100)
    engine.handle(sure("g", rank=1.0), now=100)
    assert engine.handle(TimePassed(), now=101) == []
    assert placed(engine.handle(finished("f"), now=101)) == {"g": "a"}


@pytest.mark.parametrize(
    ("next_ranks", "sent"), [({}, {"h": "b"}), ({"f": 1.5, "g": 0.5}, {"h": "a"}), ({"f": 2, "g": 2}, {})]
)
def test_rank_of_those_that_follow_is_the_rest_of_the_path_unless_told(make_trusting, next_ranks, sent):
    told = opened("told", next_rank=next_ranks.get)
    engine = make_trusting(joined("a", cpu=1), joined("b", cpu=1), opened(), told)
    engine.handle_all([sure("f", rank=2.0, run="told"), sure("g", rank=9.0, run="told")], now=100)
    engine.handle(sure("h", rank=1.0, run="told"), now=100)
    assert placed(engine.handle(TimePassed(), now=101)) == sent


def test_nobody_is_sent_if_the_room_is_for_one_who_asks_for_more(make_trusting):
    engine = make_trusting(joined("a", cpu=2))
    engine.handle_all([ready("other", cpu=1), sure("f")], now=100)
    engine.handle_all([ready("wide", cpu=2, rank=1), ready("g", cpu=1)], now=100)
    # The wide one has no room yet, so the other goes.
    assert placed(engine.handle(TimePassed(), now=101)) == {"g": "a"}


def test_nobody_is_sent_past_one_who_asks_for_more_and_will_have_room(make_trusting):
    engine = make_trusting(joined("a", cpu=3))
    engine.handle(sure("f", cpu=2), now=100)
    engine.handle_all([ready("wide", cpu=3, rank=1), ready("g", cpu=2)], now=100)
    assert engine.handle(TimePassed(), now=101) == []
    assert placed(engine.handle(finished("f"), now=101)) == {"wide": "a"}


def test_several_are_held_back_on_a_node(make_trusting):
    engine = make_trusting(joined("a", cpu=2))
    events = [sure("f"), sure("g"), *(sure(n) for n in range(4))]
    assert lanes(engine.handle_all(events, now=100)) == {"f": ("a", (4, 1)), "g": ("a", (5, 1))}
    assert lanes(engine.handle(TimePassed(), now=101)) == {0: ("a", (4, 1)), 1: ("a", (5, 1))}
    # What gets room now is behind nobody; short ones form a lane of their own.
    assert lanes(engine.handle(changed("a", cpu=3), now=101)) == {2: ("a", (6, 1))}
    events = [ready((n, "short"), memory=0, duration_s=0.001, priority=1) for n in range(9)]
    assert set(lanes(engine.handle_all(events, now=101)).values()) == {("a", (0, 5))}


def test_one_who_comes_late_takes_over_too(make_trusting):
    engine = make_trusting(joined("a", cpu=2))
    engine.handle_all([sure("f"), sure("g", duration_s=1.005)], now=100)
    assert engine.handle(TimePassed(), now=101 - LEAD_S / 2) == []
    engine.handle_all([sure("h"), finished("f")], now=101)
    assert lanes(engine.handle(sure("i"), now=101)) == {"i": ("a", (5, 1))}


def test_so_many_functions_of_a_node_may_be_followed(make_engine):
    engine = make_engine(joined("a", cpu=8), timed_prefetches=2, prefetch_queues=1)
    decisions = engine.handle_all([sure(n) for n in range(3)], now=0)
    assert lanes(decisions) == {0: ("a", (1, 1)), 1: ("a", (2, 1)), 2: ("a", None)}
    engine = make_engine(joined("a", cpu=8), timed_prefetch_lead_s=0)
    assert lanes(engine.handle(sure("f"), now=0)) == {"f": ("a", None)}
    assert engine.next_deadline() is None


def test_functions_in_lanes_are_not_followed(make_trusting):
    engine = make_trusting(joined("a", cpu=2))
    decisions = engine.handle_all(
        [*(sure(n, duration_s=0.01) for n in range(4)), sure("f", rank=-1)], now=100
    )
    assert {slot for _, slot in lanes(decisions).values()} == {(0, 2)}
    assert lanes(engine.handle_all([finished(n) for n in range(3)], now=101)) == {"f": ("a", (4, 1))}


def test_short_functions_take_no_long_ones_room(make_trusting):
    engine = make_trusting(joined("a", cpu=1))
    engine.handle_all([sure("f"), *(sure(n, duration_s=0.01) for n in range(4))], now=100)
    assert engine.handle(TimePassed(), now=101) == []
    assert {
        prefetch_queue for _, prefetch_queue in lanes(engine.handle(finished("f"), now=101)).values()
    } == {(0, 1)}


def test_end_that_has_long_been_due_is_no_longer_expected(make_trusting):
    engine = make_trusting(joined("a", cpu=1))
    engine.handle(sure("f"), now=100)
    assert engine.next_deadline() is None
    assert waits(engine.handle(sure("g"), now=101.5)) == {"g": "room"}


def test_nobody_is_sent_to_a_node_that_is_being_cleared_or_overdrawn(make_trusting):
    engine = make_trusting(joined("a", cpu=2), joined("s", disk=1))
    # One that is not known for sure: it may lose its patience.
    wide = ready("wide", cpu=2, rank=-1, duration_s=1.0)
    engine.handle_all([sure("f", duration_s=9.0), ready("e", cpu=1), wide], now=100)
    engine.handle_all([finished("e"), ready("g", cpu=1, duration_s=9)], now=108.5)
    assert engine.nodes()["a"].reserved_for == "wide"
    assert engine.handle(TimePassed(), now=109) == []
    engine = make_trusting(joined("a", cpu=1))
    events = [sure("f"), sure("g"), ClaimedElsewhere(claim=1, node="a", threads=8)]
    engine.handle_all(events, now=100)
    assert engine.handle(TimePassed(), now=101) == []


def test_time_until_a_reserved_node_is_free_counts_those_that_take_over(make_trusting):
    engine = make_trusting(joined("a", cpu=2), joined("b", cpu=2), joined("s", disk=1))
    engine.handle_all([sure("f", pin="a"), sure("g", pin="b")], now=100)
    engine.handle_all([ready("x", cpu=1, pin="a"), ready("y", cpu=1, pin="b")], now=100)
    engine.handle_all([sure("next", pin="a", duration_s=9), ready("wide", cpu=2, rank=-1)], now=100)
    assert placed(engine.handle(TimePassed(), now=101)) == {"next": "a"}
    # Both are late, but one has somebody behind it.
    engine.handle_all([finished("x"), finished("y")], now=115)
    assert [n.reserved_for for n in engine.nodes().values()] == [None, "wide", None]


@pytest.mark.parametrize("asks", [True, False])
def test_order_holds_for_those_whose_strategy_is_asked(make_trusting, asks):
    strategy = SelectStrategy(select=lambda function, nodes: None)
    own = opened("own", strategy, priority=9 if asks else -9)
    engine = make_trusting(joined("a", cpu=2), own, opened())
    engine.handle_all([sure("f"), ready("e", cpu=1), ready("h", cpu=1, run="own")], now=100)
    engine.handle(sure("g"), now=100)
    assert placed(engine.handle(TimePassed(), now=101)) == ({} if asks else {"g": "a"})


def test_limits_of_runs_hold(make_trusting):
    nodes = {"a": Capabilities.parse({"cpu": 1})}
    engine = make_trusting(joined("a", cpu=2), opened("one", max_concurrency=1), opened("part", nodes=nodes))
    engine.handle_all([sure((run, n), run=run) for run in ("one", "part") for n in range(3)], now=100)
    follow = {("one", 1): ("a", (4, 1)), ("part", 1): ("a", (5, 1))}
    assert lanes(engine.handle(TimePassed(), now=101)) == follow
    assert engine.handle_all([finished(("one", 0)), finished(("part", 0))], now=101) == []
    ends = engine.handle(finished(("one", 1)), now=102)
    assert lanes(ends) == {("one", 2): ("a", (4, 1)), ("part", 2): ("a", (5, 1))}


@pytest.mark.parametrize(("full", "sent"), [(1, {"g": "b"}), (9, {})])
def test_some_runs_that_are_full_are_passed_over(make_trusting, full, sent):
    runs = [opened(("full", n), max_concurrency=1, priority=1) for n in range(full)]
    engine = make_trusting(joined("a", cpu=full, threads=full), joined("b", cpu=1), *runs, opened())
    engine.handle_all([ready((n, 0), cpu=1, pin="a", run=("full", n)) for n in range(full)], now=100)
    engine.handle(sure("f"), now=100)
    engine.handle_all([ready((n, 1), cpu=1, rank=1, run=("full", n)) for n in range(full)], now=100)
    engine.handle(sure("g"), now=100)
    assert placed(engine.handle(TimePassed(), now=101)) == sent


def test_two_are_due_at_once(make_trusting):
    engine = make_trusting(joined("a", cpu=2))
    engine.handle_all([sure("f"), sure("g"), *(sure(n) for n in range(4))], now=100)
    assert lanes(engine.handle(finished("f"), now=101)) == {0: ("a", (4, 1)), 1: ("a", (5, 1))}


def test_successor_may_end_before_it_takes_over(make_trusting):
    engine = make_trusting(joined("a", cpu=1))
    engine.handle_all([sure("f"), sure("g")], now=100)
    assert placed(engine.handle(TimePassed(), now=101)) == {"g": "a"}
    engine.handle(FunctionWithdrawn(function="g"), now=101)
    assert engine.handle(finished("g"), now=101) == []
    assert engine.available("a") == {"cpu": 0}
    assert engine.handle(finished("f"), now=102) == []
    assert engine.available("a") == {"cpu": 1}
    engine.handle_all([RunClosed(run="run"), NodeLeft(node="a")], now=103)
    assert engine.remembers() == {}


def test_room_may_shrink_before_a_successor_takes_over(make_trusting):
    engine = make_trusting(joined("a", cpu=2))
    engine.handle_all([sure("f", cpu=2), sure("g", cpu=2), ready("h", memory=0)], now=100)
    assert placed(engine.handle(TimePassed(), now=101)) == {"g": "a"}
    engine.handle(changed("a", cpu=1), now=101)
    assert waits(engine.handle_all([finished("f"), ready("i")], now=101)) == {"i": "room"}
    assert engine.nodes()["a"].free == {"cpu": -1_000_000}


def test_both_are_lost_with_their_node(make_trusting):
    engine = make_trusting(joined("a", cpu=1))
    engine.handle_all([sure("f"), sure("g")], now=100)
    engine.handle(TimePassed(), now=101)
    engine.handle_all([NodeLeft(node="a"), joined("a", cpu=1)], now=101)
    assert engine.available("a") == {"cpu": 1}
    assert lanes(engine.handle_all([sure("f"), sure("g")], now=101)) == {"f": ("a", (4, 1))}
    assert lanes(engine.handle(TimePassed(), now=102)) == {"g": ("a", (4, 1))}


def test_ends_that_came_early_do_not_pile_up(make_trusting):
    engine = make_trusting(joined("a", cpu=1))
    for n in range(300):
        engine.handle(sure(n, duration_s=1e6), now=n)
        engine.handle(finished(n), now=n)
    assert len(engine._timed.pending) < 100
    engine.handle(sure("f"), now=400)
    assert waits(engine.handle(sure("g"), now=400)) == {"g": "room"}
    assert engine.next_deadline() == pytest.approx(401 - LEAD_S)


def test_successor_takes_over_the_very_devices(make_trusting):
    """Of two with devices the second ends first: who follows it has its devices, in the same parts."""
    engine = make_trusting(joined("a", cpu=9, gpu=3))
    engine.handle_all([ready("long", gpu=1), sure("f", gpu=1.5), sure("g", gpu=1.5)], now=100)

    (sent,) = engine.handle(TimePassed(), now=101 - LEAD_S)

    assert (sent.function, sent.devices) == ("g", (1, 2))
    engine.check()
    assert engine.handle(finished("f"), now=101) == []
    engine.check()
    # Half of the last device is left, and nothing of the others.
    halves = engine.handle_all([ready(n, gpu=0.5) for n in range(2)], now=101.1)
    assert [d.devices for d in halves if isinstance(d, Place)] == [(2,)]
    engine.handle_all([finished("g"), finished("long"), finished(0), finished(1)], now=101.2)
    engine.check()


def test_successor_without_the_same_devices_is_not_sent(make_trusting):
    engine = make_trusting(joined("a", cpu=9, gpu=1))
    engine.handle_all([sure("f", gpu=1), sure("g", gpu=0.5)], now=100)

    assert engine.handle(TimePassed(), now=101 - LEAD_S) == []
    assert lanes(engine.handle(finished("f"), now=101)).keys() == {"g"}
