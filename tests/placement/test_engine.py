"""What the engine decides, case by case."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from facts import changed, demand, finished, joined, opened, placed, ready, rejected, waits

from handoff_dask.placement.engine import PlacementEngine
from handoff_dask.placement.events import FunctionWithdrawn, NodeLeft, RunClosed, TimePassed


@pytest.fixture
def engine() -> Iterator[PlacementEngine]:
    engine = PlacementEngine()
    engine.handle(opened(), now=0)
    yield engine
    engine.check()


def test_function_waits_until_room_appears(engine):
    engine.handle(joined("a", memory=4), now=0)
    assert placed(engine.handle(ready("big", memory=4), now=1)) == {"big": "a"}

    assert waits(engine.handle(ready("next", memory=1), now=2)) == {"next": "room"}
    assert placed(engine.handle(finished("big"), now=3)) == {"next": "a"}


def test_every_function_takes_a_thread(engine):
    engine.handle(joined("a", threads=1), now=0)
    assert placed(engine.handle(ready("one"), now=1)) == {"one": "a"}
    assert waits(engine.handle(ready("two"), now=1)) == {"two": "thread"}


def test_first_in_order_goes_first_and_smaller_ones_fill_gaps(engine):
    engine.handle(joined("a", cpu=3), now=0)
    events = [
        ready("late", cpu=2),
        ready("wide", cpu=3, rank=2),
        ready("urgent", cpu=2, priority=1),
        ready("gap", cpu=1, rank=-1),
    ]
    assert placed(engine.handle_all(events, now=1)) == {"urgent": "a", "gap": "a"}
    assert placed(engine.handle_all([finished("urgent"), finished("gap")], now=2)) == {"wide": "a"}


def test_pin_by_name_holds_for_whatever_worker_bears_it(engine):
    engine.handle_all([joined("a", cpu=1, address="tcp://1"), joined("b", cpu=1)], now=0)
    assert placed(engine.handle(ready("f", cpu=1, pin="a"), now=1)) == {"f": "a"}
    assert waits(engine.handle(ready("g", cpu=1, pin="a"), now=1)) == {"g": "pin"}
    engine.handle(opened("other"), now=1)
    assert waits(engine.handle(ready("h", run="other", cpu=1, pin="tcp://1"), now=1)) == {"h": "pin"}
    assert engine.handle(NodeLeft(node="a", returning=True), now=2) == []

    decisions = engine.handle(joined("a", cpu=1, address="tcp://2"), now=3)

    # Nobody has the old address any more.
    assert placed(decisions) == {"g": "a"}
    assert rejected(decisions) == {
        "h": "a: is not 'tcp://1', to which it is pinned; b: is not 'tcp://1', to which it is pinned"
    }


def test_what_no_node_could_hold_is_rejected_at_once(engine):
    engine.handle_all([joined("a", cpu=2, memory=16000), joined("b", cpu=4)], now=0)
    decisions = engine.handle(ready("f", cpu=3, memory=20000), now=1)
    assert rejected(decisions) == {"f": "a: needs cpu 3, has 2; b: needs memory 20000, has 0"}


def test_what_no_node_could_hold_may_wait_for_one():
    engine = PlacementEngine()
    engine.handle(opened(allocation_timeout_s=10), now=0)
    assert waits(engine.handle_all([ready("f", cpu=1), ready("g", cpu=1)], now=5)) == {
        "f": "no nodes",
        "g": "no nodes",
    }
    assert engine.next_deadline() == 15
    assert placed(engine.handle(joined("a", cpu=1), now=9)) == {"f": "a"}
    assert engine.next_deadline() is None
    engine.handle(NodeLeft(node="a"), now=20)
    assert engine.next_deadline() == 30
    assert rejected(engine.handle(TimePassed(), now=30)) == {"g": ""}
    assert engine.waiting == 0


def test_members_of_a_group_follow_the_first():
    engine = PlacementEngine()
    engine.handle(opened(groups={"g": demand(cpu=3)}), now=0)
    engine.handle_all([joined("a", cpu=2), joined("b", cpu=3), joined("c", cpu=3)], now=0)
    first, second = engine.handle_all([ready("f", cpu=1, group="g"), ready("h", cpu=3, group="g")], now=1)
    assert (first.node, first.bound) == ("b", ("g", "b"))
    assert (second.function, second.cause) == ("h", "collocation")
    assert placed(engine.handle(finished("f"), now=2)) == {"h": "b"}
    engine.check()


def test_group_is_chosen_anew_when_its_node_leaves():
    engine = PlacementEngine()
    engine.handle(opened(groups={"g": demand(cpu=1)}), now=0)
    engine.handle_all([joined("a", cpu=1), joined("b", cpu=1)], now=0)
    engine.handle_all([ready("f", cpu=1, group="g"), ready("h", cpu=1, group="g")], now=1)
    (place,) = engine.handle(NodeLeft(node="a"), now=2)
    assert (place.function, place.node, place.bound) == ("h", "b", ("g", "b"))
    engine.check()


def test_function_that_binds_a_group_gives_it_a_node():
    engine = PlacementEngine()
    engine.handle(opened(groups={"g": demand(cpu=2)}), now=0)
    engine.handle_all([joined("a", cpu=1), joined("b", cpu=2)], now=0)
    (place,) = engine.handle(ready("f", cpu=1, binds="g"), now=1)
    assert (place.node, place.bound) == ("a", ("g", "b"))
    (place,) = engine.handle(ready("h", cpu=2, group="g"), now=2)
    assert (place.node, place.bound) == ("b", None)
    engine.check()


def test_withdrawn_functions_wait_no_longer_but_keep_what_they_hold(engine):
    engine.handle(joined("a", cpu=1), now=0)
    engine.handle_all([ready("f", cpu=1), ready("g", cpu=1), ready("h", cpu=1)], now=1)
    assert engine.handle_all([FunctionWithdrawn(function="f"), FunctionWithdrawn(function="g")], now=2) == []
    assert placed(engine.handle(finished("f"), now=3)) == {"h": "a"}


def test_closed_run_leaves_nothing_but_claims(engine):
    engine.handle(joined("a", cpu=1), now=0)
    engine.handle_all([ready("f", cpu=1), ready("g", cpu=1)], now=1)
    assert engine.handle(RunClosed(run="run"), now=2) == []
    assert engine.available("a") == {"cpu": 0}
    assert engine.handle(finished("f"), now=3) == []
    assert engine.available("a") == {"cpu": 1}


def test_node_that_shrinks_takes_nothing_until_there_is_room(engine):
    engine.handle(joined("a", cpu=4), now=0)
    engine.handle_all([ready("f", cpu=2), ready("g", cpu=2), ready("h", cpu=1)], now=1)
    engine.handle(changed("a", cpu=2), now=2)
    assert engine.handle(finished("f"), now=3) == []
    assert placed(engine.handle(finished("g"), now=4)) == {"h": "a"}
