"""What adds data is held back while what would free data waits for something scarce."""

from __future__ import annotations

import pytest

from handoff_dask.placement.decisions import Wait
from handoff_dask.placement.events import FunctionWithdrawn, NodeLeft, RunClosed
from tests.placement.facts import data, finished, joined, opened, placed, ready

#: Seconds that a producer takes: not short, so nothing is prefetched.
LONG_S = 5.0


def producer(number, run="run", **more):
    return ready(("p", number), run=run, cpu=1, rank=10, duration_s=LONG_S, **more)


def consumer(number, run="run", node="a", **asked):
    result = data(("p", number), node)
    return ready(
        ("c", number), run=run, arguments=[result], frees=True, duration_s=LONG_S, **(asked or {"gpu": 1})
    )


@pytest.fixture
def engine(make_engine):
    """Six threads; one node has a gpu."""
    return make_engine(
        joined("a", threads=3, cpu=3, gpu=1), joined("b", threads=3, cpu=3), opened(allocation_timeout_s=99)
    )


def pipeline(engine, count, *, run="run"):
    """Run so many producers, whose consumers take the one gpu; the most results there were at once."""
    now, most = 1.0, 0
    engine_places = placed(engine.handle_all([producer(n, run) for n in range(count)], now=now))
    running, results, done = dict(engine_places), 0, 0
    while running:
        now += 1
        # Producers are faster.
        function = min(running, key=lambda f: (f[0] == "c", f[1]))
        node = running.pop(function)
        events = [finished(function)]
        if function[0] == "p":
            results += 1
            events.append(consumer(function[1], run, node))
        else:
            results -= 1
            done += 1
        running.update(placed(engine.handle_all(events, now=now)))
        most = max(most, results + sum(f[0] == "p" for f in running))
        engine.check()
    assert done == count
    return most


def test_producers_wait_for_the_consumers_of_a_scarce_resource(engine):
    assert pipeline(engine, 40) <= 6


def test_what_is_scarce_never_idles_for_it(engine):
    engine.handle_all([producer(n) for n in range(9)], now=1)
    for number in range(6):
        engine.handle_all([finished(("p", number)), consumer(number)], now=2)
    found = []
    for number in range(6):
        decisions = placed(engine.handle(finished(("c", number)), now=3 + number))
        found.append([f for f in decisions if f[0] == "c"])
    assert found == [[("c", n)] for n in range(1, 6)] + [[]]


def test_it_is_explained(engine):
    engine.handle_all([producer(n) for n in range(7)], now=1)
    decisions = []
    for number in range(3):
        decisions += engine.handle_all([finished(("p", number)), consumer(number)], now=2)
    waits = [d for d in decisions if isinstance(d, Wait) and d.function[0] == "c"]
    assert {d.cause for d in waits} == {"room"}
    (told,) = {
        (o.cause, o.detail)
        for n, o in engine.explain(("p", 6), now=3).nodes.items()
        if o.cause == "held back"
    }
    assert told[1].startswith("6 functions of the execution are placed or wait to free data")


def test_what_asks_for_all_that_consumers_ask_for_is_not_held_back(engine):
    """It takes their turn, not their memory: the order decides."""
    engine.handle_all([consumer(n) for n in range(9)], now=1)
    engine.handle(ready("other", gpu=1, cpu=1, rank=99, duration_s=LONG_S), now=2)
    assert placed(engine.handle(finished(("c", 0)), now=3)) == {"other": "a"}


def test_other_runs_are_not_held_back(engine):
    engine.handle_all([consumer(n) for n in range(9)], now=1)
    engine.handle(opened("other"), now=2)
    assert placed(engine.handle(producer(1, "other"), now=3)) != {}
    assert placed(engine.handle(producer(1, "run"), now=4)) == {}


def test_without_data_nothing_is_held_back(engine):
    events = [ready(("c", n), gpu=1, duration_s=LONG_S) for n in range(9)]
    engine.handle_all(events, now=1)
    assert len(placed(engine.handle_all([producer(n) for n in range(5)], now=2))) == 5


@pytest.mark.parametrize(
    "let_go",
    [
        lambda: [FunctionWithdrawn(function=("c", n)) for n in range(1, 6)],
        lambda: [joined("c", threads=3, cpu=3)],
        lambda: [NodeLeft(node="a")],
    ],
    ids=["consumers are not wanted", "more threads", "nobody has it any more"],
)
def test_what_is_held_back_goes_on_once_the_reason_has_gone(engine, let_go):
    engine.handle_all([consumer(n) for n in range(6)], now=1)
    assert placed(engine.handle(producer(1), now=2)) == {}
    assert ("p", 1) in placed(engine.handle_all(let_go(), now=3))


def test_short_producers_are_not_prefetched_past_it(engine):
    engine.handle_all([consumer(n) for n in range(4)], now=1)
    short = [ready(("p", n), cpu=1, duration_s=0.001) for n in range(100)]
    assert len(placed(engine.handle_all(short, now=2))) == 2


def test_nothing_is_left_of_a_run(engine):
    engine.handle_all([consumer(n) for n in range(9)], now=1)
    engine.handle(producer(1), now=2)
    engine.handle(RunClosed(run="run"), now=3)
    engine.check()
