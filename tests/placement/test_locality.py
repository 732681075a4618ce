"""Functions go to their data, or wait for its node, unless moving the data takes less time.

To move 20 MB takes 0.2 s and a millisecond.
"""

from __future__ import annotations

import pytest

from handoff_dask.placement.decisions import Place
from handoff_dask.placement.events import (
    FunctionWithdrawn,
    NetworkMeasured,
    NodeLeft,
    NodeMemory,
    RunClosed,
    RunRanked,
    TimePassed,
)
from tests.placement.facts import data, finished, joined, opened, placed, ready, waits

MOVE_S = 0.201


@pytest.fixture
def two(make_engine):
    """Nodes a and b of one cpu each."""
    return make_engine(joined("a", cpu=1), joined("b", cpu=1))


def near(name, node, *, megabytes=20, **more):
    """A function that takes a result of its own which a node has."""
    argument = data(("of", name), node, megabytes=megabytes)
    return ready(name, **{"cpu": 1, "duration_s": 0.1, "arguments": [argument], **more})


@pytest.mark.parametrize("strategy", ["first_available", "load_balanced", "cost_optimized", "fastest"])
def test_a_function_goes_to_its_data(make_engine, strategy):
    engine = make_engine(
        joined("a", cpu=4), joined("b", cpu=8), joined("c", cpu=2), opened(strategy=strategy)
    )
    decisions = engine.handle_all([near(n, "c") for n in range(2)], now=1)
    assert placed(decisions) == {0: "c", 1: "c"}
    assert [d.transfer_bytes for d in decisions if isinstance(d, Place)] == [0, 0]


def test_a_small_move_is_no_matter(two):
    assert placed(two.handle(near("f", "b", megabytes=0.5), now=1)) == {"f": "a"}


def test_bytes_that_move_are_told_and_what_is_on_its_way_does_not_count_again(make_engine):
    engine = make_engine(joined("a", cpu=1), joined("b", cpu=3))
    engine.handle(ready("long", cpu=1, pin="a", duration_s=9), now=1)
    events = [ready(n, cpu=1, duration_s=1, arguments=[data("x", "a"), data("y", "b")]) for n in range(2)]
    told = [d for d in engine.handle_all(events, now=1) if isinstance(d, Place)]
    assert [(d.function, d.node, d.transfer_bytes) for d in told] == [(0, "b", 20_000_000), (1, "b", 0)]


def test_a_function_waits_for_its_node_if_that_takes_less_than_the_move(two):
    two.handle(ready("busy", cpu=1, pin="b", duration_s=0.15), now=1)
    assert waits(two.handle(near("f", "b"), now=1)) == {"f": "data"}
    why = two.explain("f", now=1).nodes
    assert why["a"].cause == "data"
    assert (why["a"].move_s, why["a"].wait_s) == (pytest.approx(MOVE_S), pytest.approx(0.15))
    assert str(why["a"]) == (
        "moving its arguments takes 0.201 s; 'b' has them, and is expected to start it in 0.15 s"
    )
    assert why["b"].cause == "room"
    assert two.waiting_by_cause() == {"data": 1}
    assert placed(two.handle(finished("busy"), now=1.15)) == {"f": "b"}
    assert two.next_deadline() is None


def test_a_function_goes_elsewhere_if_the_wait_would_take_longer_than_the_move(two):
    two.handle(ready("busy", cpu=1, pin="b", duration_s=0.25), now=1)
    assert placed(two.handle(near("f", "b"), now=1)) == {"f": "a"}


@pytest.mark.parametrize("duration_s", [None, 0.15])
def test_a_delay_is_no_longer_than_the_move_that_it_saves(two, duration_s):
    """Whether nobody knows how long the wait takes, or what is expected proves wrong."""
    two.handle(ready("busy", cpu=1, pin="b", duration_s=duration_s), now=1)
    assert waits(two.handle(near("f", "b", duration_s=duration_s), now=1)) == {"f": "data"}
    assert two.next_deadline() == pytest.approx(1 + MOVE_S)
    assert two.handle(TimePassed(), now=1.1) == []
    assert two.next_deadline() == pytest.approx(1 + MOVE_S)
    assert placed(two.handle(TimePassed(), now=1 + MOVE_S)) == {"f": "a"}


def test_a_wait_is_weighed_anew_when_something_begins_at_the_home(two):
    """Those that wait for a node which works off its queue stay, as long as what is left is shorter."""
    two.handle(ready("busy", cpu=1, pin="b", duration_s=0.14), now=1)
    two.handle_all([near(n, "b", rank=r, duration_s=0.05) for n, r in (("f", 2), ("g", 1))], now=1)
    assert placed(two.handle(finished("busy"), now=1.14)) == {"f": "b"}
    # It has been refused room at a for longer than its move takes, but b is about to be free.
    assert two.handle(TimePassed(), now=1 + MOVE_S + 0.02) == []
    assert two.next_deadline() == pytest.approx(1.14 + MOVE_S)
    assert placed(two.handle(finished("f"), now=1.25)) == {"g": "b"}


def test_waits_that_prove_wrong_one_after_another_come_to_an_end(make_engine):
    """Each is shorter than the move, but better ones begin at the home again and again."""
    engine = make_engine(joined("a", cpu=1), joined("b", cpu=1), data_patience=2.0)
    urgent = [ready(n, cpu=1, pin="b", rank=9, duration_s=0.15) for n in range(3)]
    engine.handle_all([urgent[0], near("f", "b")], now=1)
    for n, now in ((1, 1.15), (2, 1.3)):
        engine.handle(urgent[n], now=now)
        assert placed(engine.handle(finished(n - 1), now=now)) == {n: "b"}
    assert engine.next_deadline() == pytest.approx(1 + 2 * MOVE_S)
    assert placed(engine.handle(TimePassed(), now=1 + 2 * MOVE_S)) == {"f": "a"}


def test_a_short_function_whose_data_moves_is_not_followed_by_others_at_once(make_engine):
    """Its room is in use while its data moves, so those behind it would wait for long."""
    engine = make_engine(joined("a", cpu=1), joined("b", cpu=1))
    both = [[data(("x", n), "a", megabytes=10), data(("y", n), "b")] for n in range(9)]
    decisions = engine.handle_all(
        [ready(n, cpu=1, duration_s=0.002, arguments=both[n]) for n in range(9)], now=1
    )
    assert placed(decisions) == {0: "b", 1: "a"}


def test_those_behind_one_that_has_waited_do_not_wait_anew(make_engine):
    engine = make_engine(*(joined(n, cpu=1) for n in "abc"))
    engine.handle(ready("busy", cpu=1, pin="c"), now=1)
    engine.handle_all([near(n, "c", duration_s=None) for n in range(3)], now=1)
    assert engine.waiting == 3
    assert placed(engine.handle(TimePassed(), now=1 + MOVE_S)) == {0: "a"}
    # The link of c is in use, so another move takes twice as long, from when it was first refused.
    assert engine.next_deadline() == pytest.approx(1 + 2 * MOVE_S, abs=0.01)
    assert placed(engine.handle(TimePassed(), now=1 + 2 * MOVE_S)) == {1: "b"}


def test_explanation_says_so_if_nobody_knows_how_long(two):
    two.handle(ready("busy", cpu=1, pin="b"), now=1)
    two.handle(near("f", "b"), now=1)
    assert str(two.explain("f", now=1).nodes["a"]).endswith("is expected to start it in some time")


def test_many_that_wait_for_one_node_are_not_all_left_to_it(two):
    """As many stay as the node works off while one moves; the others share what is free."""
    two.handle(ready("busy", cpu=1, pin="b", duration_s=0.1), now=1)
    # Two are done within the time of a move; the third had better go.
    decisions = two.handle_all([near(n, "b") for n in range(5)], now=1)
    assert placed(decisions) == {2: "a"}


def test_few_that_wait_for_one_node_are_left_to_it(two):
    two.handle(ready("busy", cpu=1, pin="b", duration_s=0.1), now=1)
    assert placed(two.handle_all([near(n, "b") for n in range(2)], now=1)) == {}


def test_others_that_wait_for_the_same_node_count(two):
    two.handle(ready("busy", cpu=1, pin="b", duration_s=0.1), now=1)
    first = near("first", "b", duration_s=0.15, rank=1)
    assert waits(two.handle(first, now=1)) == {"first": "data"}
    # The same data, but another cost: another queue.
    assert placed(two.handle(near("second", "b", cpu=0.5), now=1)) == {"second": "a"}


def test_a_function_whose_data_is_there_goes_before_its_equals(two):
    two.handle_all([ready("x", cpu=1, pin="a"), ready("y", cpu=1, pin="b")], now=1)
    two.handle_all([near("first", "b", duration_s=None), near("second", "a", duration_s=None)], now=2)
    assert placed(two.handle(finished("x"), now=3)) == {"second": "a"}


def test_a_better_ranked_one_that_would_only_wait_for_less_than_its_move_is_passed_over(two):
    two.handle_all([ready("x", cpu=1, pin="a"), ready("y", cpu=1, pin="b", duration_s=2.1)], now=1)
    two.handle_all([near("best", "b", rank=9), near("second", "a", rank=1)], now=2)
    assert placed(two.handle(finished("x"), now=3)) == {"second": "a"}
    assert placed(two.handle(finished("y"), now=3.1)) == {"best": "b"}


def test_a_better_ranked_one_that_would_wait_for_longer_goes_first(two):
    two.handle_all([ready("x", cpu=1, pin="a"), ready("y", cpu=1, pin="b", duration_s=9)], now=1)
    two.handle_all([near("best", "b", rank=9), near("second", "a", rank=1)], now=2)
    assert placed(two.handle(finished("x"), now=3)) == {"best": "a"}


def test_user_priority_comes_first(two):
    two.handle_all([ready("x", cpu=1, pin="a"), ready("y", cpu=1, pin="b", duration_s=9)], now=1)
    two.handle_all([near("urgent", "b", priority=1), near("near", "a", rank=5)], now=2)
    assert placed(two.handle(finished("x"), now=3)) == {"urgent": "a"}


def test_a_node_is_not_left_idle_for_an_equal_that_has_no_room_there(make_engine):
    engine = make_engine(joined("a", cpu=1), joined("b", cpu=2))
    engine.handle_all([ready("x", cpu=1, pin="a"), ready("y", cpu=2, pin="b", duration_s=99)], now=1)
    engine.handle_all([near("first", "b"), near("wide", "a", cpu=2)], now=2)
    assert placed(engine.handle(finished("x"), now=3)) == {"first": "a"}


def test_of_nodes_that_have_as_much_the_one_is_chosen_for_which_fewest_wait(make_engine):
    engine = make_engine(*(joined(n, cpu=1) for n in "ab"))
    engine.handle_all([ready(("busy", n), cpu=1, pin=n, duration_s=9) for n in "ab"], now=1)
    engine.handle(near("f", "a"), now=1)
    both = ready("g", cpu=1, duration_s=0.1, arguments=[data("x", "a", "b")])
    engine.handle(both, now=1)
    assert placed(engine.handle(finished(("busy", "b")), now=2)) == {"g": "b"}


def test_the_strategy_decides_among_nodes_to_which_the_move_is_the_same(make_engine):
    for strategy, node in (("first_available", "b"), ("load_balanced", "c")):
        engine = make_engine(
            joined("a", cpu=9), joined("b", cpu=2), joined("c", cpu=4), opened(strategy=strategy)
        )
        event = ready("f", cpu=1, arguments=[data("x", "b", "c")])
        assert placed(engine.handle(event, now=1)) == {"f": node}


def test_among_many_nodes_those_that_have_data_are_found(make_engine):
    engine = make_engine(*(joined(f"n{n:02}", cpu=1) for n in range(40)))
    assert placed(engine.handle(near("f", "n33"), now=1)) == {"f": "n33"}
    assert placed(engine.handle(near("g", "n33", duration_s=9), now=1)) == {}
    assert placed(engine.handle(TimePassed(), now=2)) == {"g": "n00"}


def test_a_faster_link_is_preferred(make_engine):
    engine = make_engine(*(joined(n, cpu=1) for n in "abc"))
    engine.handle(ready("busy", cpu=1, pin="c", duration_s=9), now=1)
    engine.handle(NetworkMeasured(pairs={("c", "a"): 1e6}), now=1)
    assert placed(engine.handle(near("f", "c"), now=1)) == {"f": "b"}


def test_a_network_that_turns_out_faster_ends_delays(two):
    two.handle(ready("busy", cpu=1, pin="b", duration_s=0.15), now=1)
    assert waits(two.handle(near("f", "b"), now=1)) == {"f": "data"}
    assert placed(two.handle(NetworkMeasured(bandwidth=1e9), now=1)) == {"f": "a"}


def test_something_else_on_the_node_that_it_waits_for_ends_a_delay(two):
    two.handle(ready("busy", cpu=1, pin="b", duration_s=0.15), now=1)
    two.handle(near("f", "b"), now=1)
    two.handle(ready("urgent", cpu=1, pin="b", priority=1, duration_s=9), now=1)
    assert placed(two.handle(finished("busy"), now=1.1)) == {"urgent": "b", "f": "a"}


def test_those_whose_node_is_gone_go_elsewhere(two):
    two.handle(ready("busy", cpu=1, pin="b", duration_s=0.15), now=1)
    two.handle(near("f", "b"), now=1)
    two.handle(NodeLeft(node="b"), now=1.05)
    two.handle(TimePassed(), now=1 + MOVE_S)
    assert two.nodes()["a"].placed == ("f",)


def test_pins_and_groups_are_obeyed(make_engine):
    groups = {"g": ready("x", cpu=1).demand}
    engine = make_engine(joined("a", cpu=2), joined("b", cpu=2), opened(groups=groups))
    where = placed(engine.handle_all([near("f", "b", pin="a"), near("g", "b", group="g")], now=1))
    assert where == {"f": "a", "g": "b"}


def test_a_run_that_is_full_is_not_delayed(make_engine):
    engine = make_engine(joined("a", cpu=2), joined("b", cpu=2), opened(max_concurrency=1))
    engine.handle(near("f", "b"), now=1)
    assert waits(engine.handle(near("g", "b"), now=1)) == {"g": "max_concurrency"}


def test_another_head_is_looked_at_anew(two):
    two.handle(ready("busy", cpu=1, pin="b", duration_s=0.05), now=1)
    two.handle_all([near("f", "b", rank=1), near("g", "b")], now=1)
    two.handle(FunctionWithdrawn(function="f"), now=1.02)
    assert two.waiting_cause("g") == "data"
    two.handle(RunRanked(run="run", ranks={"g": 5.0}), now=1.02)
    assert placed(two.handle(finished("busy"), now=1.05)) == {"g": "b"}


def test_short_functions_are_prefetched_only_where_their_data_is(make_engine):
    engine = make_engine(joined("a", cpu=1), joined("b", cpu=1))
    small = [ready(("s", n), cpu=1, duration_s=0.002) for n in range(8)]
    engine.handle_all(small, now=1)
    decisions = engine.handle_all([near(n, "b", duration_s=0.002) for n in range(9)], now=1)
    assert set(placed(decisions).values()) <= {"b"}


def test_data_moves_while_the_room_is_still_in_use(make_engine):
    """One whose data has to move is sent so much earlier, also where the end is not certain."""
    engine = make_engine(joined("a", cpu=1), joined("b", cpu=1))
    engine.handle(near("old", "b"), now=0)
    engine.handle_all([finished("old", 0.1), ready("x", cpu=1, pin="b", duration_s=99)], now=0.2)
    # A first move, from which it is learned how long moves take.
    assert placed(engine.handle(near("first", "b", duration_s=1.0), now=1)) == {"first": "a"}
    engine.handle(near("next", "b", duration_s=1.0), now=1)
    assert placed(engine.handle(TimePassed(), now=1.9)) == {}
    due = 1 + MOVE_S + 1.0 - 0.02 - MOVE_S
    sent = [d for d in engine.handle(TimePassed(), now=due) if isinstance(d, Place)]
    assert [(d.function, d.node, d.prefetched, d.transfer_bytes) for d in sent] == [
        ("next", "a", True, 20_000_000)
    ]


def test_of_equals_the_one_that_frees_data_goes_first(make_engine):
    engine = make_engine(joined("a", cpu=1))
    engine.handle(ready("busy", cpu=1), now=1)
    engine.handle_all(
        [ready("adds", cpu=1), ready("frees", cpu=1, frees=True), ready("best", cpu=1, rank=1)], now=1
    )
    assert [placed(engine.handle(finished(f), now=2)) for f in ("busy", "best", "frees")] == [
        {"best": "a"}, {"frees": "a"}, {"adds": "a"}
    ]  # fmt: skip


def test_functions_that_only_add_avoid_a_node_whose_memory_is_nearly_full(two):
    two.handle(NodeMemory(node="a", used=61, limit=100), now=1)
    assert placed(two.handle(ready("adds", cpu=1), now=1)) == {"adds": "b"}
    # With no room elsewhere it will have to do.
    assert placed(two.handle(ready("more", cpu=1), now=1)) == {"more": "a"}
    two.handle_all([finished("adds"), finished("more")], now=2)
    assert placed(two.handle(ready("frees", cpu=1, frees=True), now=2)) == {"frees": "a"}
    two.handle_all([finished("frees"), NodeMemory(node="a", used=60, limit=100)], now=3)
    assert placed(two.handle(ready("again", cpu=1), now=3)) == {"again": "a"}


def test_nothing_is_remembered_when_all_has_ended(two):
    two.handle(ready("busy", cpu=1, pin="b", duration_s=0.15), now=1)
    two.handle_all([near("f", "b"), near("g", "a"), near("h", "b")], now=1)
    two.handle_all([finished("busy", 0.15), finished("g", 0.1)], now=1.2)
    assert two.remembers()["data"] > 0
    two.handle(RunClosed(run="run"), now=2)
    for function in ("f", "h"):
        two.handle(finished(function), now=2)
    two.handle_all([NodeLeft(node="a"), NodeLeft(node="b")], now=3)
    assert two.remembers() == {}
