"""Concrete devices: none is given twice beyond its amount, parts share one."""

from __future__ import annotations

from handoff_dask.placement.decisions import Place
from handoff_dask.placement.events import ClaimedElsewhere, ReturnedElsewhere
from handoff_dask.resources import Cost
from tests.placement.facts import changed, finished, joined, placed, ready, waits


def given(decisions):
    """``{function: indices of its devices}``."""
    return {d.function: list(d.devices) for d in decisions if isinstance(d, Place)}


def test_each_gets_devices_of_its_own(make_engine):
    engine = make_engine(joined("a", gpu=3))

    assert given(engine.handle_all([ready(1, gpu=1), ready(2, gpu=2), ready(3, cpu=0)], now=1)) == {
        1: [0], 2: [1, 2], 3: [],
    }  # fmt: skip
    engine.handle(finished(1), now=2)
    assert given(engine.handle(ready(4, gpu=1), now=3)) == {4: [0]}


def test_parts_share_a_device(make_engine):
    engine = make_engine(joined("a", gpu=2))

    started = engine.handle_all([ready(1, gpu=0.5), ready(2, gpu=0.5), ready(3, gpu=1)], now=1)

    assert given(started) == {1: [0], 2: [0], 3: [1]}


def test_a_part_and_whole_ones(make_engine):
    engine = make_engine(joined("a", gpu=2))

    assert given(engine.handle_all([ready(1, gpu=1.5), ready(2, gpu=0.5)], now=1)) == {1: [0, 1], 2: [1]}


def test_what_is_left_of_several_devices_is_no_device(make_engine):
    """0.4 of each of two is 0.8, but no function can have that."""
    engine = make_engine(joined("a", gpu=2), joined("b", gpu=1))
    engine.handle_all([ready(1, gpu=0.6), ready(2, gpu=0.6), ready(3, gpu=1)], now=1)

    assert waits(engine.handle(ready(4, gpu=0.8), now=2)) == {4: "room"}
    assert str(engine.explain(4, now=3).nodes["a"]) == (
        "needs gpu 0.8, 0.8 of 2 free (in parts of several devices)"
    )
    assert not engine.has_room("a", Cost.parse({"gpu": 0.8}))
    assert placed(engine.handle(finished(3), now=4)) == {4: "b"}


def test_who_holds_devices_elsewhere_keeps_them(make_engine):
    engine = make_engine(joined("a", gpu=2))
    engine.handle_all([ready(1, gpu=1), ready(2, gpu=1)], now=1)
    kept = ClaimedElsewhere(claim="thread", node="a", cost=Cost.parse({"gpu": 1}), devices=(1,))
    engine.handle_all([finished(2), kept], now=2)
    engine.handle(finished(1), now=3)

    assert given(engine.handle(ready(3, gpu=1), now=4)) == {3: [0]}
    assert given(engine.handle(ready(4, gpu=1), now=5)) == {}
    assert given(engine.handle(ReturnedElsewhere(claim="thread"), now=6)) == {4: [1]}


def test_what_plain_tasks_hold_is_given_to_nobody(make_engine):
    engine = make_engine(joined("a", gpu=2))
    engine.handle(ClaimedElsewhere(claim="task", node="a", cost=Cost.parse({"gpu": 1})), now=1)

    assert given(engine.handle(ready(1, gpu=1), now=2)) == {1: [1]}


def test_a_node_may_lose_devices_that_are_held(make_engine):
    engine = make_engine(joined("a", gpu=2))
    engine.handle_all([ready(1, gpu=1), ready(2, gpu=1)], now=1)
    engine.handle(changed("a", gpu=1), now=2)
    engine.check()
    engine.handle_all([finished(1), finished(2)], now=3)

    assert given(engine.handle(ready(3, gpu=1), now=4)) == {3: [0]}
    engine.handle(changed("a", gpu=3), now=5)
    assert given(engine.handle(ready(4, gpu=2), now=6)) == {4: [1, 2]}


def test_short_functions_with_devices_are_not_sent_ahead(make_engine):
    """Which device comes free first is not known before."""
    engine = make_engine(joined("a", gpu=2))

    sent = engine.handle_all([ready(n, gpu=1, duration_s=0.001) for n in range(9)], now=1)

    assert given(sent) == {0: [0], 1: [1]}
    assert given(engine.handle(finished(1), now=2)) == {2: [1]}
