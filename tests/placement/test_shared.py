"""Resources that the whole cluster shares: never more than there is, nobody starved, adjusted at any time."""

from __future__ import annotations

import pytest

from handoff_dask.placement.events import ClaimedElsewhere, NodeLeft, ReturnedElsewhere, SharedRegistered
from handoff_dask.resources import Cost
from tests.placement.facts import changed, finished, joined, opened, placed, ready, rejected, waits


def registered(name: str, amount: float) -> SharedRegistered:
    return SharedRegistered(name=name, total=int(amount * 1_000_000))


def test_all_nodes_draw_from_one_amount(make_engine):
    engine = make_engine(joined("a", cpu=8), joined("b", cpu=8), registered("seats", 3))

    started = engine.handle_all([ready(n, seats=1, cpu=3) for n in range(5)], now=1)

    assert placed(started) == {0: "a", 1: "a", 2: "b"}
    assert waits(started) == {3: "shared", 4: "shared"}
    assert engine.shared() == {"seats": (3_000_000, 3_000_000)}
    assert placed(engine.handle(finished(2), now=2)) == {3: "b"}
    assert placed(engine.handle(NodeLeft(node="a"), now=3)) == {4: "b"}
    assert engine.shared() == {"seats": (3_000_000, 2_000_000)}


def test_runs_draw_from_the_same_amount(make_engine):
    engine = make_engine(
        joined("a"), registered("seats", 1), opened("one"), opened("two", "load_balanced", max_concurrency=5)
    )

    started = engine.handle_all([ready(1, run="one", seats=1), ready(2, run="two", seats=1)], now=1)

    assert placed(started) == {1: "a"}
    assert placed(engine.handle(finished(1), now=2)) == {2: "a"}


def test_what_costs_none_of_it_does_not_wait_for_it(make_engine):
    engine = make_engine(joined("a", cpu=8), registered("seats", 1))

    started = engine.handle_all([ready(1, seats=1), ready(2, seats=1, rank=9), ready(3, cpu=1)], now=1)

    assert placed(started) == {2: "a", 3: "a"}


def test_an_explanation_says_how_much_is_left(make_engine):
    engine = make_engine(joined("a"), registered("seats", 4))
    engine.handle_all([ready(1, seats=3), ready(2, seats=2)], now=1)

    explanation = engine.explain(2, now=2)

    assert explanation.cause == "shared"
    assert str(explanation.nodes["a"]) == "needs seats 2, 1 of the cluster's 4 free"


def test_more_than_there_is_can_never_run(make_engine):
    engine = make_engine(joined("a"), registered("seats", 4))

    refused = engine.handle(ready(1, seats=5), now=1)

    assert rejected(refused) == {1: "a: needs seats 5, has 4 (of all that the cluster shares)"}


def test_it_is_adjusted_while_functions_run(make_engine):
    engine = make_engine(joined("a"), registered("seats", 2))
    engine.handle_all([ready(n, seats=1) for n in range(5)], now=1)

    assert placed(engine.handle(registered("seats", 3), now=2)) == {2: "a"}
    assert placed(engine.handle(registered("seats", 1), now=3)) == {}
    assert placed(engine.handle_all([finished(0), finished(1)], now=4)) == {}
    assert placed(engine.handle(finished(2), now=5)) == {3: "a"}


def test_a_name_that_is_registered_late_is_found_by_those_that_wait(make_engine):
    engine = make_engine(joined("a"), opened(allocation_timeout_s=60))
    assert waits(engine.handle(ready(1, seats=1), now=1)) == {1: "no nodes"}

    assert placed(engine.handle(registered("seats", 1), now=2)) == {1: "a"}


def test_what_is_no_function_holds_it_too(make_engine):
    engine = make_engine(joined("a"), registered("seats", 2))
    claim = ClaimedElsewhere(claim="mine", node="a", cost=Cost.parse({"seats": 2}))
    engine.handle(claim, now=1)

    assert placed(engine.handle(ready(1, seats=1), now=2)) == {}
    assert not engine.has_room("a", Cost.parse({"seats": 1}))
    assert placed(engine.handle(ReturnedElsewhere(claim="mine"), now=3)) == {1: "a"}
    engine.handle(claim, now=4)
    assert engine.shared() == {"seats": (2_000_000, 3_000_000)}
    engine.handle(NodeLeft(node="a"), now=5)
    assert engine.shared() == {"seats": (2_000_000, 0)}


def test_one_that_asks_for_much_is_not_starved_by_small_ones(make_engine):
    """Once it has waited too long, what is returned is kept for it."""
    engine = make_engine(joined("a", threads=99), registered("seats", 4))
    engine.handle_all([ready(n, seats=1) for n in range(4)], now=0)
    engine.handle(ready("big", seats=4), now=0.1)
    running, number, now = [0, 1, 2, 3], 4, 0.1
    while "big" not in running:
        now += 0.25
        number += 1
        assert now < 20
        started = engine.handle_all([finished(running.pop(0)), ready(number, seats=1)], now=now)
        running += placed(started)
        if not running:
            break

    assert running == ["big"]
    assert placed(engine.handle(finished("big"), now=now + 1))


def test_nobody_waits_for_a_node_that_is_reserved_for_one_without_a_share(make_engine):
    """Of two that need much, one of the node and one of what is shared, each gets both in turn."""
    engine = make_engine(joined("a", cpu=4, threads=99), registered("seats", 4))
    running = list(placed(engine.handle_all([ready(n, seats=1, cpu=1) for n in range(4)], now=0)))
    engine.handle_all([ready("wide", cpu=4, seats=1), ready("hungry", seats=4, cpu=1)], now=0.1)
    number, now, seen = 4, 0.1, []
    while len(seen) < 2:
        now += 0.3
        number += 1
        assert now < 60, seen
        more = [finished(running.pop(0))] if running else []
        started = placed(engine.handle_all([*more, ready(number, seats=1, cpu=1)], now=now))
        running += started
        seen += [f for f in started if isinstance(f, str)]

    assert set(seen) == {"wide", "hungry"}


@pytest.mark.parametrize("certain", [False, True])
def test_what_is_sent_ahead_takes_over_and_holds_no_more(make_engine, certain):
    """Short functions follow each other on a node; together they hold what runs at once."""
    engine = make_engine(joined("a", threads=8), joined("b", threads=8), registered("seats", 2))
    events = [ready(n, seats=1, duration_s=0.001, certain=certain) for n in range(40)]
    sent = list(placed(engine.handle_all(events, now=1)))
    assert len(sent) > 2
    assert engine.shared() == {"seats": (2_000_000, 2_000_000)}
    now = 1.0
    while sent:
        now += 0.001
        sent += placed(engine.handle(finished(sent.pop(0)), now=now))
        assert engine.shared()["seats"][1] <= 2_000_000
        engine.check()
    assert engine.placed == engine.waiting == 0


def test_a_node_that_shrinks_changes_nothing_of_it(make_engine):
    engine = make_engine(joined("a", cpu=2), registered("seats", 2))
    engine.handle(ready(1, cpu=1, seats=1), now=1)
    engine.handle(changed("a", cpu=0), now=2)

    assert engine.shared() == {"seats": (2_000_000, 1_000_000)}
