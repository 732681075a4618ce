"""Deadlocks of nested executions: who can never start because of those that wait for it."""

from __future__ import annotations

from handoff_dask.placement.amounts import amounts_of
from handoff_dask.placement.deadlock import Parent
from handoff_dask.placement.events import ClaimedElsewhere, ReturnedElsewhere
from handoff_dask.resources import Cost
from tests.placement.facts import joined, placed, ready


def waits(engine, function, node, *waiting, parents=(), **kept):
    """A function on a node that waits for others, and keeps something."""
    cost = Cost.parse(kept)
    engine.handle(ClaimedElsewhere(claim=function, node=node, cost=cost), now=1)
    return Parent(
        function=function, node=node, amounts=amounts_of(cost, 0), waiting=waiting, parents=tuple(parents)
    )


def found(engine, *parents):
    return {d.function: [p.function for p in d.holders] for d in engine.deadlocks(parents)}


def test_a_function_whose_parent_holds_what_it_needs(make_engine):
    engine = make_engine(joined("a", licence=1))
    parent = waits(engine, "parent", "a", "child", licence=1)
    engine.handle(ready("child", licence=1), now=2)

    assert found(engine, parent) == {"child": ["parent"]}


def test_another_node_ends_it(make_engine):
    engine = make_engine(joined("a", licence=1))
    parent = waits(engine, "parent", "a", "child", licence=1)
    engine.handle(ready("child", licence=1), now=2)
    engine.handle(joined("b", licence=1), now=3)

    assert found(engine, parent) == {}


def test_what_runs_is_taken_to_end(make_engine):
    engine = make_engine(joined("a", licence=2))
    parent = waits(engine, "parent", "a", "child", licence=1)
    engine.handle(ClaimedElsewhere(claim="other", node="a", cost=Cost.parse({"licence": 1})), now=2)
    engine.handle(ready("child", licence=1), now=2)

    assert found(engine, parent) == {}
    assert placed(engine.handle(ReturnedElsewhere(claim="other"), now=3)) == {"child": "a"}


def test_parents_that_hold_what_each_other_needs(make_engine):
    engine = make_engine(joined("a", memory=10), joined("b", memory=10))
    one = waits(engine, "one", "a", "x", memory=6)
    two = waits(engine, "two", "b", "y", memory=6)
    engine.handle_all([ready("x", memory=6), ready("y", memory=6)], now=2)

    assert found(engine, one, two) == {"x": ["one", "two"], "y": ["one", "two"]}


def test_a_parent_that_can_end_makes_room(make_engine):
    """One's own function has room beside it; after it there is room for the other."""
    engine = make_engine(joined("a", memory=10))
    one = waits(engine, "one", "a", "x", memory=4)
    two = waits(engine, "two", "a", "y", memory=5)
    engine.handle_all([ready("x", memory=5), ready("y", memory=1)], now=2)

    assert found(engine, one, two) == {}


def test_grandparents_hold_too(make_engine):
    engine = make_engine(joined("a", memory=10))
    top = waits(engine, "top", "a", parents=["middle"], memory=5)
    middle = waits(engine, "middle", "a", "x", memory=2)
    engine.handle(ready("x", memory=4), now=2)

    assert found(engine, top, middle) == {"x": ["top", "middle"]}


def test_only_nodes_to_which_it_may_go_count(make_engine):
    engine = make_engine(joined("a", licence=1), joined("b", licence=1))
    parent = waits(engine, "parent", "a", "child", licence=1)
    engine.handle(ready("child", licence=1, pin="a"), now=2)

    assert found(engine, parent) == {"child": ["parent"]}


def test_what_no_node_could_hold_is_no_deadlock(make_engine):
    engine = make_engine(joined("a", licence=1))
    parent = waits(engine, "parent", "a", "child", licence=1)
    engine.handle(ready("child", gpu=1), now=2)

    assert found(engine, parent) == {}


def test_what_is_booked_without_a_look_has_room_once_others_have_ended(make_engine):
    engine = make_engine(joined("a", threads=2, cpu=2))
    needs = amounts_of(Cost.parse({"cpu": 2}))
    engine.handle(ready("f", cpu=2), now=1)
    assert engine.may_go_on("a", needs)
    engine.handle(ClaimedElsewhere(claim="mine", node="a", cost=Cost.parse({"cpu": 2}), threads=1), now=2)

    assert not engine.may_go_on("a", needs)
    assert placed(engine.handle(ready("g"), now=3)) == {}
    engine.handle(ReturnedElsewhere(claim="mine"), now=4)
    assert engine.may_go_on("a", needs)
    assert engine.may_go_on("gone", needs)


def test_a_node_that_has_shrunk_keeps_nobody_from_going_on_alone(make_engine):
    engine = make_engine(joined("a", threads=2, cpu=1))
    needs = amounts_of(Cost.parse({"cpu": 2}))
    engine.handle(ClaimedElsewhere(claim="mine", node="a", cost=Cost.parse({"cpu": 2}), threads=1), now=2)

    assert engine.may_go_on("a", needs)
