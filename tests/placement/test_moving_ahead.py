"""Data moves to where functions will run before they can be placed there.

To move 20 MB takes 0.2 s and a millisecond.
"""

from __future__ import annotations

import pytest

from handoff_dask.placement.decisions import MoveData
from handoff_dask.placement.demand import DataArgument
from handoff_dask.placement.events import ArgumentReady, Demand, NodeLeft, NodeMemory, RunClosed
from handoff_dask.resources import Cost
from tests.placement.facts import data, finished, joined, opened, placed, ready


def moves(decisions):
    """``[(function, node, what moves)]``."""
    return [(d.function, d.node, list(d.data)) for d in decisions if isinstance(d, MoveData)]


def argument(function, key, *nodes, count=4, pin=None, megabytes=20, **cost):
    """An argument of a function that waits for others."""
    there = DataArgument(key, int(megabytes * 1e6), nodes)
    demand = Demand(Cost.parse(cost or {"cpu": 1}), pin=pin)
    return ArgumentReady(function=function, run="run", demand=demand, argument=there, count=count)


def needs_gpu(name, node="a", **more):
    return ready(name, gpu=1, arguments=[data(("of", name), node)], **more)


@pytest.fixture
def one_gpu(make_engine):
    return make_engine(joined("a", cpu=2), joined("g", cpu=2, gpu=1))


@pytest.fixture
def four(make_engine):
    return make_engine(*(joined(name, cpu=2) for name in "abcd"))


def test_what_waits_for_the_only_node_has_its_data_moved_there(one_gpu):
    assert placed(one_gpu.handle(needs_gpu("f"), now=1)) == {"f": "g"}
    assert moves(one_gpu.handle(needs_gpu("g"), now=1)) == [("g", "g", [("of", "g")])]
    # One runs at a time: the data of one more is enough.
    assert moves(one_gpu.handle(needs_gpu("h"), now=1)) == []
    assert moves(one_gpu.handle(finished("f"), now=2)) == [("h", "g", [("of", "h")])]


def test_data_that_is_there_does_not_move(one_gpu):
    one_gpu.handle(needs_gpu("f"), now=1)
    assert moves(one_gpu.handle(needs_gpu("g", "g"), now=1)) == []


def test_a_pin_leaves_no_choice(four):
    four.handle(ready("busy", cpu=2, pin="b"), now=1)
    assert moves(four.handle(ready("f", cpu=1, pin="b", arguments=[data("x", "a")]), now=1)) == [
        ("f", "b", ["x"])
    ]


def test_nothing_moves_to_a_node_whose_memory_is_nearly_full(one_gpu):
    one_gpu.handle(needs_gpu("f"), now=1)
    one_gpu.handle(NodeMemory(node="g", used=90, limit=100), now=1)
    assert moves(one_gpu.handle(needs_gpu("g"), now=1)) == []
    one_gpu.handle(NodeMemory(node="g", used=10, limit=100), now=1)
    assert moves(one_gpu.handle(finished("f"), now=2)) == []  # it has been placed by now


def test_of_few_nodes_that_will_do_each_has_its_share(make_engine):
    engine = make_engine(*(joined(n, cpu=1) for n in "abcd"), joined("g1", gpu=1), joined("g2", gpu=1))
    engine.handle_all([needs_gpu("f", duration_s=1.0), needs_gpu("g", duration_s=1.0)], now=1)
    told = engine.handle_all([needs_gpu("h", duration_s=1.0), needs_gpu("i", duration_s=1.0)], now=1)
    assert sorted((function, node) for function, node, _ in moves(told)) in (
        [("h", "g1"), ("i", "g2")],
        [("h", "g2"), ("i", "g1")],
    )
    home = {function: node for function, node, _ in moves(told)}
    # Whoever has room first takes the one whose data it has.
    ended = next(f for f in ("f", "g") if engine.explain(f, now=1).node == home["i"])
    assert placed(engine.handle(finished(ended), now=2)) == {"i": home["i"]}


def test_where_most_nodes_will_do_nothing_moves_for_what_waits(four):
    four.handle_all([ready(("busy", n), cpu=2, pin=n, duration_s=9) for n in "abcd"], now=1)
    told = four.handle(ready("f", cpu=1, arguments=[data("x", "a"), data("y", "b")]), now=1)
    assert moves(told) == []


def test_arguments_of_a_join_move_to_its_home_as_they_end(four):
    assert moves(four.handle(argument("join", "x", "a"), now=1)) == []  # one of four: not known yet
    assert moves(four.handle(argument("join", "y", "a"), now=1)) == []  # both are there
    # Many may end at once of which nothing is known yet: nothing is decided at first.
    assert moves(four.handle(argument("join", "z", "b"), now=1.1)) == []
    assert moves(four.handle(argument("join", "w", "c", count=5), now=1.3)) == [("join", "a", ["z", "w"])]
    join = ready("join", cpu=1, arguments=[data(k, n) for k, n in zip("vwxyz", "ccaab", strict=True)])
    assert placed(four.handle(join, now=1.31)) == {"join": "a"}


def test_what_has_moved_ahead_goes_to_its_home_as_soon_as_this_has_room(four):
    for key, node in (("x", "a"), ("y", "b"), ("z", "b")):
        four.handle(argument("join", key, node), now=1)
    told = four.handle(argument("join", "w", "c", count=5), now=1.3)
    assert moves(told) == [("join", "b", ["x", "w"])]
    # By now most of it is elsewhere, but what is on its way to its home would move once more.
    four.handle(ready("busy", cpu=1, pin="b", duration_s=9), now=1.3)
    join = ready("join", cpu=1, arguments=[data(k, n) for k, n in zip("xyzw", "abbc", strict=True)])
    assert placed(four.handle(join, now=1.31)) == {"join": "b"}


def test_an_argument_that_is_computed_again_counts_once(four):
    four.handle(argument("join", "x", "a"), now=1)
    assert moves(four.handle(argument("join", "x", "b"), now=1)) == []
    four.handle(RunClosed(run="run"), now=2)
    assert not four._backlog.network.data


def test_of_two_arguments_nothing_moves(four):
    """Where a function of few arguments will run is a guess."""
    four.handle(argument("sum", "x", "a", count=3), now=1)
    assert moves(four.handle(argument("sum", "y", "b", count=3), now=1)) == []


def test_a_pinned_join_has_its_arguments_moved_at_once(four):
    assert moves(four.handle(argument("join", "x", "a", count=2, pin="d"), now=1)) == [("join", "d", ["x"])]


def test_a_pin_that_is_not_there_moves_nothing(four):
    assert moves(four.handle(argument("join", "x", "a", pin="nowhere"), now=1)) == []


def test_joins_have_homes_of_their_own(four):
    told = []
    for n, join in enumerate("jk"):
        for now, key, node in ((1, "v", "a"), (2, "w", "b"), (3, "x", "c")):
            told += four.handle(argument(join, (join, key), node, count=8), now=3 * n + now)
    homes = {function: node for function, node, _ in moves(told)}
    assert len(set(homes.values())) == 2


def test_with_more_joins_than_nodes_nothing_moves(four):
    """A shuffle: the links are busy anyway, and where each runs is decided by room."""
    told = []
    for now, node in enumerate("abcd"):
        for n in range(6):
            told += four.handle(argument(f"reduce-{n}", (node, n), node, count=8), now=now)
    assert moves(told) == []


def test_a_join_whose_home_is_gone_is_given_another(four):
    for now, key, node in ((1, "x", "a"), (1.5, "y", "a"), (1.5, "z", "b")):
        four.handle(argument("join", key, node, count=9), now=now)
    four.handle(NodeLeft(node="a"), now=2)
    # What was only there does not move: it is computed again.
    assert moves(four.handle(argument("join", "v", "c", count=9), now=2)) == [("join", "b", ["v"])]
    assert moves(four.handle(argument("join", "x", "d", count=9), now=3)) == [("join", "b", ["x"])]


def test_a_closed_run_leaves_nothing(one_gpu):
    one_gpu.handle(needs_gpu("f"), now=1)
    one_gpu.handle(needs_gpu("g"), now=1)
    one_gpu.handle(argument("join", "x", "a", count=2, pin="g"), now=1)
    one_gpu.handle(RunClosed(run="run"), now=2)
    one_gpu.handle(finished("f"), now=3)
    ahead = one_gpu._ahead
    assert [ahead.open, ahead._of_run, ahead._only, ahead._touched, ahead._inward] == [{}, {}, {}, {}, {}]
    assert not one_gpu._backlog.network.data
    assert moves(one_gpu.handle(argument("late", "x", "a", pin="g"), now=3)) == []


def test_a_group_moves_to_its_node(make_engine):
    engine = make_engine(
        *(joined(n, cpu=1) for n in "ab"), opened(groups={"team": Demand(Cost.parse({"cpu": 1}))})
    )
    engine.handle(ready("first", cpu=1, group="team"), now=1)
    node = engine.explain("first", now=1).node
    other = "b" if node == "a" else "a"
    told = engine.handle(ready("next", cpu=1, group="team", arguments=[data("x", other)]), now=1)
    assert moves(told) == [("next", node, ["x"])]


def test_several_joins_whose_data_is_at_their_home_end_one_by_one(four):
    """Nothing has to move for any of them."""
    for join in "jk":
        for now, key in enumerate("xyz"):
            four.handle(argument(join, (join, key), "a"), now=now)
    for join in "jk":
        there = [data((join, key), "a") for key in "xyz"]
        assert placed(four.handle(ready(join, cpu=1, arguments=there), now=4)) == {join: "a"}
    assert four._ahead._inward == {}


def test_what_is_left_of_a_join_moves_while_it_waits_for_room(four):
    """Its last argument has ended elsewhere, and its home is busy."""
    four.handle(ready("busy", cpu=2, pin="d"), now=1)
    assert moves(four.handle(argument("join", "x", "a", count=2, pin="d"), now=1)) == [("join", "d", ["x"])]
    join = ready("join", cpu=1, pin="d", arguments=[data("x", "a"), data("y", "b")])
    assert moves(four.handle(join, now=2)) == [("join", "d", ["y"])]
