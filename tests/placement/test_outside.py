"""Runs of which somebody else sends the functions: they count, and they take turns with the others."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from handoff_dask.placement.events import Event, FunctionWithdrawn, OutsideWaits, RunClosed
from tests.placement.facts import finished, joined, opened, placed, ready, waits


def sent(*functions: Hashable, node: str = "n", run: Hashable = "outside", **asked: object) -> list[Event]:
    return [ready(function, run=run, pin=node, **asked) for function in functions]


def ended(*functions: Hashable) -> Iterable[Event]:
    return [e for f in functions for e in (FunctionWithdrawn(function=f), finished(f))]


OUTSIDE = opened("outside", client="other", outside=True, allocation_timeout_s=1e9)


def test_what_has_begun_holds_and_no_decision_is_given_of_it(make_engine):
    engine = make_engine(joined("n", cpu=2, threads=4), joined("o", cpu=1), opened(), OUTSIDE)
    begun = [ready("p", run="outside", pin="n", cpu=2, begun=True)]
    decisions = engine.handle_all([*begun, ready("f", cpu=1), ready("g", cpu=1)], now=1)
    assert (placed(decisions), waits(decisions)) == ({"f": "o"}, {"g": "room"})
    assert engine.claimed_elsewhere("n") == {"p": {"cpu": 2_000_000}}
    assert engine.nodes()["n"].placed == ()
    assert placed(engine.handle_all(ended("p"), now=2)) == {"g": "n"}


def test_functions_and_tasks_take_turns_on_a_node(make_engine):
    """What waits on the node gets its thread when it is its turn, and so do functions."""
    engine = make_engine(joined("n", threads=2), opened(), OUTSIDE)
    tasks = [f"p{n}" for n in range(6)]
    engine.handle_all(sent(*tasks), now=0)
    functions = [ready(f"f{n}", rank=-n) for n in range(3)]
    assert placed(engine.handle_all(functions, now=0)) == {}
    assert engine.waiting_by_cause() == {"thread": 3}
    assert placed(engine.handle_all(ended("p0"), now=1)) == {"f0": "n"}
    # Each holds one thread: whose ends gets another.
    assert placed(engine.handle_all(ended("p1"), now=2)) == {}
    assert {h.run: h.share for h in engine.holdings()} == {"run": 0.5, "outside": 0.5}
    assert placed(engine.handle(finished("f0"), now=3)) == {"f1": "n"}


def test_a_chain_and_an_endless_stream_take_turns_on_one_thread(make_engine):
    engine = make_engine(joined("n", threads=1), OUTSIDE, opened())
    engine.handle_all([*sent(0, 1, 2, 3), ready(("f", 0))], now=0)
    running, step, number = "task", 0, 3
    for second in range(1, 13):
        if running == "task":
            number += 1
            got = placed(engine.handle_all([*ended(number - 4), *sent(number)], now=second))
        else:
            step += 1
            got = placed(engine.handle_all([finished(("f", step - 1)), ready(("f", step))], now=second))
        running = "function" if got else "task"
    assert step == 6


def test_tasks_of_one_kind_are_not_told_apart(make_engine):
    """Nobody knows which of them a node runs first; one that ended has run."""
    engine = make_engine(joined("n", gpu=1), opened(), OUTSIDE)
    engine.handle_all(sent("p", "q", "r", gpu=1), now=0)
    engine.handle(ready("f", gpu=1), now=0)
    assert placed(engine.handle(finished("r"), now=1)) == {"f": "n"}
    assert engine.handle(finished("p"), now=2) == []
    assert placed(engine.handle(finished("f"), now=3)) == {}
    assert engine.claimed_elsewhere("n") == {"q": {"gpu": 1_000_000}}


def test_a_task_that_never_got_its_turn_leaves_nothing(make_engine):
    engine = make_engine(joined("n", threads=1), opened(), OUTSIDE)
    engine.handle_all([ready("f"), *sent("p", "q")], now=0)
    engine.handle_all(ended("q", "p"), now=1)
    engine.handle_all([finished("f"), RunClosed(run="run"), RunClosed(run="outside")], now=2)
    assert engine.remembers().keys() <= {"nodes", "changes"}


def test_short_functions_are_not_sent_ahead_while_tasks_wait_outside_for_their_turn(make_engine):
    """Dask sends its queued tasks to a worker only once that has been sent less."""
    engine = make_engine(joined("n", threads=2), opened(), prefetch_limit=8)
    engine.handle_all([ready(n, duration_s=0.001) for n in range(100)], now=0)
    assert engine.placed == 18
    engine.handle_all([OUTSIDE, OutsideWaits(run="outside", waits=True)], now=0.01)
    for n in range(16):
        assert placed(engine.handle(finished(n), now=0.02)) == {}
    engine.handle_all([OutsideWaits(run="outside", waits=False), finished(16)], now=0.03)
    assert engine.placed > 8


def test_a_long_function_is_not_followed_while_tasks_wait_outside_for_their_turn(make_engine):
    for waiting in (True, False):
        engine = make_engine(joined("n", threads=1), opened(), OUTSIDE, timed_prefetch_lead_s=0.5)
        sure = [ready(f, duration_s=1.0, certain=True) for f in "fg"]
        engine.handle_all([*sure, OutsideWaits(run="outside", waits=waiting)], now=0)
        assert placed(engine.handle(OutsideWaits(run="outside", waits=waiting), now=0.6)) == (
            {} if waiting else {"g": "n"}
        )
