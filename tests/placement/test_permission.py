"""Somebody outside is asked before each placement, and may refuse it."""

from __future__ import annotations

from facts import finished, joined, opened, placed, ready, rejected, waits

from handoff_dask.placement.engine import PlacementEngine
from handoff_dask.placement.events import PermissionsChanged
from handoff_dask.placement.strategies import SelectStrategy


def an_engine(permit, strategy="first_available", **more):
    engine = PlacementEngine()
    engine.handle_all(
        [joined("a", cpu=2), joined("b", cpu=2), opened(permit=permit, strategy=strategy)], now=0
    )
    return engine


def test_what_one_node_is_refused_goes_to_the_next():
    asked = []

    def permit(function, node):
        asked.append((function, node))
        return node == "b"

    engine = an_engine(permit)

    assert placed(engine.handle(ready("f", cpu=1), now=1)) == {"f": "b"}
    assert asked == [("f", "a"), ("f", "b")]
    engine.check()


def test_what_is_refused_everywhere_waits_until_something_has_changed():
    allowed = set()
    engine = an_engine(lambda function, node: node in allowed)

    assert waits(engine.handle(ready("f", cpu=1), now=1)) == {"f": "tracker"}
    allowed.add("b")
    assert engine.handle(ready("g", cpu=1, run="unknown"), now=2) == []
    assert placed(engine.handle(PermissionsChanged(), now=3)) == {"f": "b"}
    engine.check()


def test_a_claim_that_is_returned_makes_the_engine_ask_again():
    running = set()

    def permit(function, node):
        if running:
            return False
        running.add(function)
        return True

    engine = an_engine(permit)
    assert placed(engine.handle_all([ready("f", cpu=1), ready("g", cpu=1)], now=1)) == {"f": "a"}
    running.clear()

    assert placed(engine.handle(finished("f"), now=2)) == {"g": "a"}
    engine.check()


def test_nobody_is_asked_about_what_has_no_room():
    asked = []
    engine = an_engine(lambda function, node: asked.append(node) or True)
    engine.handle_all([ready("f", cpu=2), ready("g", cpu=2), ready("h", cpu=2)], now=1)

    assert asked == ["a", "b"]
    assert engine.explain("h", now=2).cause == "room"
    engine.check()


def test_short_functions_are_not_sent_ahead_without_permission():
    granted = []
    engine = an_engine(lambda function, node: granted.append(function) or True)
    functions = [ready(n, cpu=1, duration_s=0.001) for n in range(20)]

    assert set(placed(engine.handle_all(functions, now=1))) == set(granted) == {0, 1, 2, 3}


def test_a_wish_that_is_refused_is_followed_by_the_next_wish():
    strategy = SelectStrategy(select=lambda function, nodes: nodes[-1].name)
    engine = an_engine(lambda function, node: node == "a", strategy)

    assert placed(engine.handle(ready("f", cpu=1), now=1)) == {"f": "a"}


def test_who_names_a_full_node_waits_for_it():
    strategy = SelectStrategy(select=lambda function, nodes: "b")
    engine = an_engine(None, strategy)

    assert placed(engine.handle_all([ready("f", cpu=2), ready("g", cpu=2)], now=1)) == {"f": "b"}
    assert placed(engine.handle(finished("f"), now=2)) == {"g": "b"}
    engine.check()


def test_who_names_a_node_that_could_never_hold_it_fails():
    strategy = SelectStrategy(select=lambda function, nodes: "small")
    engine = an_engine(None, strategy)
    engine.handle(joined("small", cpu=1), now=1)

    problem = "the strategy chose 'small', which could never hold it; it was offered 'a', 'b'"
    assert rejected(engine.handle(ready("f", cpu=2), now=2)) == {"f": problem}
