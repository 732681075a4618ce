"""Users' strategies, as the engine asks them."""

from __future__ import annotations

import pytest

from handoff_dask.placement.events import FunctionWithdrawn, NodeLeft, RunClosed
from handoff_dask.placement.strategies import (
    AllocateStrategy,
    SelectStrategy,
)
from handoff_dask.placement.user_strategies import StrategyFailed
from tests.placement.facts import demand, finished, joined, opened, placed, ready, rejected, waits


def test_select_sees_the_nodes_with_room_in_name_order(make_engine):
    seen = []

    def select(function, nodes):
        seen.append((function, [(n.name, n.available, n.running) for n in nodes], nodes[0].capabilities))
        return nodes[-1].name

    strategy = SelectStrategy(select=select, describe=str.upper)
    engine = make_engine(
        joined("b", cpu=2, zone="eu"), joined("a", cpu=4), joined("c", cpu=1), opened(strategy=strategy)
    )
    assert placed(engine.handle_all([ready(f, cpu=2) for f in "fg"], now=1)) == {"f": "b", "g": "a"}
    assert seen == [
        ("F", [("a", {"cpu": 4}, 0), ("b", {"cpu": 2}, 0)], {"cpu": 4}),
        ("G", [("a", {"cpu": 4}, 0)], {"cpu": 4}),
    ]
    assert waits(engine.handle(ready("h", cpu=4), now=2)) == {"h": "room"}
    assert waits(engine.handle(ready("i", cpu=2, pin="b"), now=2)) == {"i": "pin"}
    assert placed(engine.handle(finished("f"), now=3)) == {"i": "b"}


def test_select_is_asked_again_when_something_changes(make_engine):
    strategy = SelectStrategy(select=lambda f, nodes: "b" if nodes[-1].name == "b" else None)
    engine = make_engine(joined("a", cpu=2), joined("b", cpu=1), opened(strategy=strategy))
    decisions = engine.handle_all([ready(f, cpu=1) for f in "fgh"], now=1)
    assert (placed(decisions), waits(decisions)) == ({"f": "b"}, {"g": "strategy", "h": "strategy"})
    assert engine.waiting_by_cause() == {"strategy": 2}
    assert str(engine.explain("g", now=1).nodes["a"]) == "the execution's strategy does not want the node now"
    assert placed(engine.handle(finished("f"), now=2)) == {"g": "b"}
    engine.handle(RunClosed(run="run"), now=3)
    assert engine.waiting == 0


def test_select_that_wants_nothing_although_all_is_idle_fails_its_run(make_engine):
    strategy = SelectStrategy(select=lambda f, nodes: None)
    engine = make_engine(joined("a", cpu=2), opened("picky", strategy), opened())
    assert placed(engine.handle(ready("other", cpu=1), now=1)) == {"other": "a"}
    assert waits(engine.handle(ready("f", run="picky", cpu=1), now=1)) == {"f": "strategy"}
    problem = "the strategy wants no node for it, and nothing runs that could change that"
    assert rejected(engine.handle(finished("other"), now=2)) == {"f": problem}


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (lambda f, nodes: 1 / 0, "the strategy raised ZeroDivisionError: division by zero"),
        (lambda f, nodes: "mars", "the strategy chose 'mars', which could never hold it; it was offered 'a'"),
        (lambda f, nodes: 7, "the strategy answered 7; give the name of a node, or None"),
    ],
)
def test_wrong_select_fails_its_run_alone(make_engine, answer, problem):
    engine = make_engine(joined("a", cpu=2), opened("bad", SelectStrategy(select=answer)), opened())
    decisions = engine.handle_all([ready("f", run="bad", cpu=1), ready("g", cpu=1)], now=1)
    assert rejected(decisions) == {"f": problem}
    assert placed(decisions) == {"g": "a"}
    assert engine.handle(ready("h", run="bad", cpu=1), now=2) == []


def test_select_may_name_a_node_by_its_address(make_engine):
    strategy = SelectStrategy(select=lambda f, nodes: "tcp://b")
    engine = make_engine(joined("a"), joined("b", address="tcp://b"), opened(strategy=strategy))
    assert placed(engine.handle(ready("f"), now=1)) == {"f": "b"}


def test_allocate_is_asked_once_and_a_full_node_is_waited_for(make_engine):
    asked = []

    def assign(capabilities):
        asked.append(capabilities)
        return {"f": "b", "g": "b", "h": "tcp://b", "pinned": "b", "member": "b", "second": "a"}

    engine = make_engine(
        joined("b", cpu=2, address="tcp://b"),
        joined("a", cpu=4),
        opened(strategy=AllocateStrategy(assign=assign), groups={"g": demand(cpu=1)}),
    )
    events = [
        ready("f", cpu=2),
        ready("g", cpu=2),
        ready("h", cpu=1),
        ready("left out", cpu=2),
        ready("pinned", cpu=1, pin="a"),
        ready("member", cpu=1, group="g"),
        ready("second", cpu=1, group="g"),
    ]
    decisions = engine.handle_all(events, now=1)
    assert placed(decisions) == {"f": "b", "left out": "a", "pinned": "a"}
    assert waits(decisions) == {"g": "pin", "h": "pin", "member": "collocation", "second": "collocation"}
    assert asked == [{"a": {"cpu": 4}, "b": {"cpu": 2}}]
    # The node they were given is gone for good: now they go anywhere.
    assert placed(engine.handle(NodeLeft(node="b"), now=2)) == {"h": "a"}
    assert placed(engine.handle(finished("left out"), now=3)) == {"g": "a"}
    assert placed(engine.handle(ready("f", cpu=1), now=4)) == {}
    engine.handle(RunClosed(run="run"), now=5)
    assert engine.remembers().keys() == {"nodes", "claims", "placed"}


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (lambda c: 1 / 0, "the strategy raised ZeroDivisionError: division by zero"),
        (lambda c: ["a"], "the strategy answered ['a']; give a mapping from function id to node name"),
        (lambda c: {"g": "mars"}, "the strategy puts 'g' on 'mars', which is not a node"),
        (lambda c: {"f": None}, "the strategy puts 'f' on None, which is not a node"),
        (lambda c: {"f": "a"}, "the strategy gave it to 'a', which could never hold it"),
    ],
)
def test_wrong_allocate_fails_its_run_alone(make_engine, answer, problem):
    engine = make_engine(
        joined("a", cpu=1), joined("b", cpu=8), opened("bad", AllocateStrategy(assign=answer)), opened()
    )
    decisions = engine.handle_all([ready("f", run="bad", cpu=2), ready("g", cpu=2)], now=1)
    assert rejected(decisions) == {"f": problem}
    assert placed(decisions) == {"g": "b"}


def test_functions_that_are_left_wait_no_longer_when_their_run_has_failed(make_engine):
    wrong = AllocateStrategy(assign=lambda capabilities: None)
    engine = make_engine(joined("a", cpu=1), opened(strategy=wrong))
    decisions = engine.handle_all([ready("f", cpu=1), ready("g", cpu=1)], now=1)
    problem = "the strategy answered None; give a mapping from function id to node name"
    assert (rejected(decisions), engine.waiting) == ({"f": problem}, 0)
    engine = make_engine(joined("a", cpu=2), opened(strategy=SelectStrategy(select=lambda f, nodes: "x")))
    decisions = engine.handle_all([ready("f", cpu=1), ready("g", cpu=2)], now=1)
    assert (list(rejected(decisions)), engine.waiting) == (["f"], 0)


def test_driver_may_fail_a_users_strategy_in_its_own_words(make_engine):
    def fail(*asked):
        raise StrategyFailed("it is gone")

    engine = make_engine(
        joined("a"), opened("s", SelectStrategy(select=fail)), opened("t", AllocateStrategy(assign=fail))
    )
    decisions = engine.handle_all([ready("f", run="s"), ready("g", run="t")], now=1)
    assert rejected(decisions) == {"f": "it is gone", "g": "it is gone"}


def test_withdrawn_functions_are_not_asked_about_again(make_engine):
    asked = []
    strategy = SelectStrategy(select=lambda f, nodes: asked.append(f))
    engine = make_engine(joined("a", cpu=9), opened(strategy=strategy), opened("other"))
    engine.handle_all([ready("busy", run="other"), ready("f"), ready("g")], now=1)
    engine.handle_all([FunctionWithdrawn(function="f"), joined("b")], now=2)
    assert asked == ["f", "g", "g"]


def test_assigned_member_gives_its_group_the_node(make_engine):
    strategy = AllocateStrategy(assign=lambda capabilities: {"n": "b", "o": "a"})
    engine = make_engine(
        joined("a", cpu=1),
        joined("b", cpu=1),
        opened("x"),
        opened(strategy=strategy, groups={"g": demand(cpu=1)}),
    )
    engine.handle_all([ready("f", run="x", cpu=1), ready("h", run="x", cpu=1)], now=1)
    assert waits(engine.handle(ready("m", cpu=1, group="g"), now=2)) == {"m": "room"}
    assert waits(engine.handle(ready("n", cpu=1, group="g"), now=3)) == {"n": "collocation"}
    assert waits(engine.handle(ready("o", cpu=1, group="g"), now=3)) == {"o": "collocation"}
    assert engine.handle(finished("f"), now=4) == []
    assert placed(engine.handle(finished("h"), now=5)) == {"m": "b"}
