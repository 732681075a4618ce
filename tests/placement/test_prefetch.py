"""Short functions are sent ahead; the ledger stays exact and others are not held up."""

from __future__ import annotations

from collections import Counter

import pytest

from handoff_dask.placement.decisions import Place
from handoff_dask.placement.events import (
    ClaimedElsewhere,
    DurationsLearned,
    FunctionWithdrawn,
    NodeLeft,
    RunClosed,
)
from handoff_dask.placement.strategies import SelectStrategy
from handoff_dask.resources import Capabilities
from tests.placement.facts import changed, demand, finished, joined, opened, placed, ready, waits


def lanes(decisions):
    """How many were sent, by node and lane."""
    return Counter((d.node, d.prefetch_queue) for d in decisions if isinstance(d, Place))


def short(count, start=0, **more):
    return [ready(n, **{"cpu": 1, "duration_s": 0.005, **more}) for n in range(start, start + count)]


def test_as_many_are_sent_ahead_as_end_within_a_round_trip(make_engine):
    engine = make_engine(joined("a", cpu=2), joined("b", cpu=1))
    decisions = engine.handle_all(short(40), now=1)
    # Two and one run; behind each follow four of 5 ms.
    assert lanes(decisions) == {("a", (0, 2)): 10, ("b", (0, 1)): 5}
    assert engine.available("a") == {"cpu": 0}
    assert engine.nodes()["a"].threads_used == 2


def test_the_limit_holds_for_the_shortest(make_engine):
    engine = make_engine(joined("a", cpu=1), prefetch_limit=7)
    assert lanes(engine.handle_all(short(40, duration_s=0.0), now=1)) == {("a", (0, 1)): 8}


@pytest.mark.parametrize("duration_s", [None, 0.021, 5])
def test_long_or_unknown_functions_are_not_sent_ahead(make_engine, duration_s):
    engine = make_engine(joined("a", cpu=2))
    assert lanes(engine.handle_all(short(9, duration_s=duration_s), now=1)) == {("a", None): 2}


def test_what_is_sent_ahead_is_spread_evenly(make_engine):
    engine = make_engine(joined("a", cpu=2), joined("b", cpu=2))
    assert lanes(engine.handle_all(short(12), now=1)) == {("a", (0, 2)): 6, ("b", (0, 2)): 6}


def test_last_of_a_queue_needs_no_lane(make_engine):
    engine = make_engine(joined("a", cpu=2))
    assert lanes(engine.handle_all(short(1), now=1)) == {("a", None): 1}


def test_lane_is_filled_up_when_half_of_it_is_done(make_engine):
    engine = make_engine(joined("a", cpu=1))
    engine.handle_all(short(20), now=1)
    assert engine.handle(finished(0), now=2) == []
    assert list(placed(engine.handle(finished(1), now=2))) == [5, 6]


def test_new_ones_follow_in_a_lane_that_has_time(make_engine):
    engine = make_engine(joined("a", cpu=1))
    engine.handle_all(short(3), now=1)
    assert lanes(engine.handle_all(short(9, start=3), now=2)) == {("a", (0, 1)): 2}


def test_claims_go_back_as_a_lane_empties(make_engine):
    engine = make_engine(joined("a", cpu=2))
    engine.handle_all(short(3), now=1)
    free = []
    for n in range(3):
        engine.handle(finished(n), now=2)
        free.append(engine.available("a")["cpu"])
    assert free == [0, 1, 2]
    assert engine.remembers().keys() == {"nodes", "runs", "resource requests", "changes"}


def test_a_function_that_goes_first_is_not_held_up_by_a_lane(make_engine):
    engine = make_engine(joined("a", cpu=2, memory=1))
    engine.handle_all(short(60), now=1)
    assert waits(engine.handle(ready("first", cpu=1, memory=1, rank=1), now=1)) == {"first": "room"}
    order = [f for n in range(9) for f in placed(engine.handle(finished(n), now=1))]
    # Nothing follows in the lane any more; once it has emptied by one, there is room.
    assert order == ["first"]


def test_two_queues_take_turns_in_their_lanes(make_engine):
    engine = make_engine(joined("a", cpu=2, memory=9))
    costs = [{"cpu": 1}, {"cpu": 1, "memory": 1}]
    events = [ready((n, kind), duration_s=0.01, **costs[kind]) for n in range(40) for kind in range(2)]
    running = list(placed(engine.handle_all(events, now=1)))
    ended = []
    while running:
        ended.append(running.pop(0))
        running += placed(engine.handle(finished(ended[-1]), now=1))
    assert sorted(ended) == sorted((n, kind) for n in range(40) for kind in range(2))
    # Neither kind is ever far behind the other.
    leads = [sum(1 if kind else -1 for _, kind in ended[:n]) for n in range(80)]
    assert max(map(abs, leads)) <= 8


def test_functions_whose_durations_are_learned_follow_from_then_on(make_engine):
    engine = make_engine(joined("a", cpu=1))
    engine.handle_all(short(20, duration_s=None), now=1)
    assert engine.handle(DurationsLearned(run="run", durations=dict.fromkeys(range(20), 0.01)), now=2) == []
    assert lanes(engine.handle(finished(0), now=3)) == {("a", (0, 1)): 3}
    assert lanes(engine.handle(changed("a", cpu=2), now=4)) == {("a", (1, 1)): 3}


def test_long_function_in_between_ends_what_is_sent_ahead(make_engine):
    engine = make_engine(joined("a", cpu=1))
    events = [*short(3), ready("long", cpu=1, duration_s=9), *short(3, start=5)]
    assert list(placed(engine.handle_all(events, now=1))) == [0, 1, 2]
    order = [list(placed(engine.handle(finished(n), now=2))) for n in (0, 1, 2, "long")]
    assert order == [[], [], ["long"], [5, 6, 7]]


def test_lane_that_cannot_be_opened_grows_another(make_engine):
    engine = make_engine(joined("a", cpu=1), prefetch_queues=1)
    engine.handle_all(short(20), now=1)
    assert lanes(engine.handle(changed("a", cpu=2), now=2)) == {("a", (0, 2)): 5}


def test_another_queue_without_a_lane_gets_room_only(make_engine):
    engine = make_engine(joined("a", cpu=2, memory=2), prefetch_queues=1)
    engine.handle_all(short(4, cpu=2), now=1)
    events = [ready(("m", n), memory=1, duration_s=0.001, rank=-1) for n in range(4)]
    assert lanes(engine.handle_all(events, now=2)) == {("a", None): 2}


def test_lane_is_no_wider_than_the_run_may_be(make_engine):
    engine = make_engine(joined("a", cpu=8), opened(max_concurrency=3))
    assert lanes(engine.handle_all(short(40), now=1)) == {("a", (0, 3)): 15}


def test_lane_is_no_wider_than_the_share_of_a_confined_run(make_engine):
    engine = make_engine(joined("a", cpu=8, memory=9), opened(nodes={"a": Capabilities.parse({"cpu": 2})}))
    assert lanes(engine.handle_all(short(40), now=1)) == {("a", (0, 2)): 10}
    engine = make_engine(joined("a", cpu=4, threads=3), opened(nodes={"a": Capabilities()}))
    assert lanes(engine.handle_all([ready(n, duration_s=0.01) for n in range(40)], now=1)) == {
        ("a", (0, 3)): 9
    }


def test_users_strategies_are_asked_for_each_function(make_engine):
    strategy = SelectStrategy(select=lambda function, nodes: nodes[0].name)
    engine = make_engine(joined("a", cpu=1), opened(strategy=strategy))
    assert lanes(engine.handle_all(short(9), now=1)) == {("a", None): 1}


def test_node_that_takes_nothing_new_gets_nothing_ahead(make_engine):
    engine = make_engine(joined("a", cpu=1))
    engine.handle_all(short(20), now=1)
    engine.handle(changed("a", cpu=1, accepting=False), now=2)
    assert [engine.handle(finished(n), now=3) for n in range(5)] == [[]] * 5
    assert list(placed(engine.handle(changed("a", cpu=1), now=4))) == [5, 6, 7, 8, 9]


def test_lanes_go_with_their_node(make_engine):
    engine = make_engine(joined("a", cpu=2), joined("b", cpu=1))
    engine.handle_all(short(12), now=1)
    engine.handle_all([NodeLeft(node="a"), NodeLeft(node="b"), joined("a", cpu=1)], now=2)
    assert lanes(engine.handle_all(short(9), now=3)) == {("a", (0, 1)): 5}


def test_withdrawn_function_in_a_lane_stays_until_it_has_finished(make_engine):
    engine = make_engine(joined("a", cpu=1))
    engine.handle_all(short(3), now=1)
    assert engine.handle_all([FunctionWithdrawn(function=2), RunClosed(run="run")], now=2) == []
    engine.handle_all([finished(0), finished(1)], now=3)
    assert engine.available("a") == {"cpu": 0}
    engine.handle(finished(2), now=4)
    assert engine.available("a") == {"cpu": 1}


def test_lane_goes_on_beside_what_others_claim(make_engine):
    engine = make_engine(joined("a", cpu=1, memory=4))
    engine.handle_all(short(6), now=1)
    engine.handle(ClaimedElsewhere(claim="x", node="a", threads=1), now=1)
    assert list(placed(engine.handle_all([finished(0), finished(1), finished(2)], now=2))) == [5]


def test_lane_with_nobody_left_to_follow(make_engine):
    engine = make_engine(joined("a", cpu=2))
    assert lanes(engine.handle_all(short(2), now=1)) == {("a", (0, 2)): 2}


def test_one_of_two_lanes_of_a_queue_may_end_before_the_other(make_engine):
    engine = make_engine(joined("a", cpu=1))
    engine.handle_all(short(3), now=1)
    engine.handle(changed("a", cpu=2), now=1)
    assert lanes(engine.handle_all(short(1, start=3), now=1)) == {("a", (1, 1)): 1}
    engine.handle(finished(3), now=2)
    assert engine.available("a") == {"cpu": 1}
    engine.handle_all([finished(n) for n in range(3)], now=3)
    assert engine.available("a") == {"cpu": 2}


def test_nothing_follows_whose_result_can_be_sent_nowhere(make_engine):
    engine = make_engine(joined("a", cpu=1), joined("b", cpu=2), opened(groups={"g": demand(cpu=2)}))
    engine.handle(ready("full", cpu=2, pin="b"), now=1)
    assert lanes(engine.handle_all(short(40, binds="g"), now=1)) == {("a", (0, 1)): 5}
    engine.handle(NodeLeft(node="b", returning=True), now=2)
    assert [engine.handle(finished(n), now=2) for n in range(4)] == [[]] * 4
    assert lanes(engine.handle(joined("b", cpu=2), now=3)) == {("b", (0, 2)): 10, ("a", (0, 1)): 4}


def test_functions_follow_where_their_arguments_are(make_engine):
    engine = make_engine(joined("a", cpu=1), joined("b", cpu=1))
    engine.handle_all(short(4, duration_s=0.0001), now=1)
    homes = {n: "b" if n % 3 else "a" for n in range(30)}
    events = [
        ready(("h", n), cpu=1, duration_s=0.0001, preferred_node=preferred_node)
        for n, preferred_node in homes.items()
    ]
    where = placed(engine.handle_all(events, now=1))
    assert where == {("h", n): home for n, home in homes.items()}
    # Not if there are more than twice as many, and four, where the arguments are.
    events = [ready(n, cpu=1, duration_s=0.0001, preferred_node="b") for n in range(40, 60)]
    assert Counter(placed(engine.handle_all(events, now=1)).values()) == {"b": 15, "a": 5}


def test_neighbours_in_the_order_follow_each_other(make_engine):
    engine = make_engine(joined("a", cpu=1), joined("b", cpu=1))
    where = placed(engine.handle_all(short(12, duration_s=0.001), now=1))
    assert "".join(where[n] for n in range(12)) == "abaaaaabbbbb"


def test_home_that_is_no_lane_of_the_queue_does_not_matter(make_engine):
    engine = make_engine(joined("a", cpu=1), joined("b", memory=1))
    assert lanes(engine.handle_all(short(9, preferred_node="b"), now=1)) == {("a", (0, 1)): 5}
