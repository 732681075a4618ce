"""A node is kept for the first in order of those that have no room."""

from __future__ import annotations

import pytest

from handoff_dask.placement.events import TimePassed
from tests.placement.facts import finished, joined, opened, placed, ready, waits


def reserved_for(engine):
    return {name: node.reserved_for for name, node in engine.nodes().items() if node.reserved_for}


@pytest.fixture
def engine(make_engine):
    """A node of 4, of which half is taken until 10 s, and one who needs all of it."""
    engine = make_engine(joined("a", cpu=4))
    facts = [ready("f", cpu=2, duration_s=10), ready("wide", cpu=4, duration_s=1, rank=5)]
    assert placed(engine.handle(facts[0], now=0)) == {"f": "a"}
    assert placed(engine.handle(facts[1], now=0)) == {}
    return engine


def test_those_behind_it_fill_gaps_only_if_they_do_not_delay_it(engine):
    facts = [ready("brief", cpu=1, duration_s=9, rank=4), ready("long", cpu=1, duration_s=12, rank=3)]
    decisions = engine.handle_all(facts, now=0)
    assert placed(decisions) == {"brief": "a"}
    assert waits(decisions) == {"long": "reservation"}
    assert reserved_for(engine) == {"a": "wide"}
    assert placed(engine.handle_all([finished("f"), finished("brief")], now=10)) == {"wide": "a"}
    assert reserved_for(engine) == {}
    assert placed(engine.handle(finished("wide"), now=11)) == {"long": "a"}


@pytest.mark.parametrize(("duration_s", "starts"), [(11.1, True), (11.2, False)])
def test_a_tenth_of_its_own_time_is_no_delay(engine, duration_s, starts):
    decisions = engine.handle(ready("other", cpu=1, duration_s=duration_s), now=0)
    assert placed(decisions) == ({"other": "a"} if starts else {})


def test_node_is_kept_no_longer_when_it_turns_out_that_nobody_knows(engine):
    engine.handle(ready("long", cpu=1, duration_s=20, rank=3), now=0)
    assert engine.next_deadline() == 15
    assert placed(engine.handle(TimePassed(), now=14.9)) == {}
    assert placed(engine.handle(TimePassed(), now=15)) == {"long": "a"}
    assert engine.next_deadline() is None
    assert placed(engine.handle(ready("longer", cpu=1, duration_s=30, rank=2), now=15)) == {"longer": "a"}
    assert reserved_for(engine) == {}


def test_it_is_not_late_while_one_runs_that_was_let_in(make_engine):
    engine = make_engine(joined("a", cpu=4))
    engine.handle(ready("f", cpu=2, duration_s=1), now=0)
    engine.handle(ready("wide", cpu=4, duration_s=1, rank=5), now=0)
    # It is kept from now on.
    engine.handle(ready("long", cpu=1, duration_s=9), now=0.99)
    assert engine.next_deadline() == pytest.approx(1.1)
    engine.handle(ready("let in", cpu=1, duration_s=0.03, rank=3), now=0.99)
    assert engine.next_deadline() == pytest.approx(1.12)


def test_those_before_it_are_not_held_back(engine):
    engine.handle(ready("long", cpu=1, duration_s=12, rank=3), now=0)
    decisions = engine.handle(ready("urgent", cpu=1, duration_s=20, rank=6), now=1)
    # The first cannot start before 21 s now: there is time for the other, too.
    assert placed(decisions) == {"urgent": "a", "long": "a"}


def test_whoever_comes_first_gets_the_node(engine):
    engine.handle(ready("long", cpu=1, duration_s=12, rank=3), now=0)
    assert reserved_for(engine) == {"a": "wide"}
    engine.handle(ready("wider", cpu=3, duration_s=1, rank=9), now=1)
    engine.handle(ready("other", cpu=2, duration_s=30, rank=2), now=2)
    assert reserved_for(engine) == {"a": "wider"}


@pytest.mark.parametrize("duration_s", [None, 0.01])
def test_none_is_kept_for_what_is_short_or_unknown(make_engine, duration_s):
    """It would cost more than it gains; or nobody knows how long the node would be kept."""
    engine = make_engine(joined("a", cpu=4))
    engine.handle(ready("f", cpu=2, duration_s=10), now=0)
    engine.handle(ready("wide", cpu=4, duration_s=duration_s, rank=5), now=0)
    assert placed(engine.handle(ready("long", cpu=1, duration_s=11), now=0)) == {"long": "a"}
    assert reserved_for(engine) == {}


def test_none_is_kept_while_nobody_knows_when_there_is_room(make_engine):
    engine = make_engine(joined("a", cpu=4))
    engine.handle(ready("f", cpu=2), now=0)
    engine.handle(ready("wide", cpu=4, duration_s=1, rank=5), now=0)
    assert placed(engine.handle(ready("long", cpu=1, duration_s=11), now=0)) == {"long": "a"}
    assert reserved_for(engine) == {}


def test_it_can_be_turned_off(make_engine):
    engine = make_engine(joined("a", cpu=4), reserve_from_s=float("inf"))
    engine.handle(ready("f", cpu=2, duration_s=10), now=0)
    engine.handle(ready("wide", cpu=4, duration_s=1, rank=5), now=0)
    assert placed(engine.handle(ready("long", cpu=1, duration_s=11), now=0)) == {"long": "a"}


@pytest.mark.parametrize("runs", [1, 2])
def test_fairness_is_for_several_runs(make_engine, runs):
    """Among functions of one run whose durations are known for sure nobody loses patience."""
    engine = make_engine(joined("a", cpu=1), opened(), *[opened("other")] * (runs - 1))
    engine.handle(ready("f", cpu=1, duration_s=1, certain=True), now=0)
    engine.handle(ready("last", cpu=1, duration_s=1, certain=True, rank=-1), now=0)
    running, started = "f", {}
    for second in range(1, 30):
        fact = ready(second, cpu=1, duration_s=1, certain=True)
        (running,) = placed(engine.handle_all([finished(running), fact], now=second))
        started[running] = second
    assert started.get("last") == (17 if runs == 2 else None)
