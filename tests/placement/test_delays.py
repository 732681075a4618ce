"""A function waits for the node of its data no longer than the move takes, unless something changes."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from handoff_dask.placement.engine import PlacementEngine
from handoff_dask.placement.events import TimePassed
from tests.placement.facts import SETTINGS, data, finished, joined, opened, placed, ready

NODES = ("a", "b", "c")
DURATIONS = st.sampled_from([None, 0.05, 0.15, 0.4, 3.0])
BUSY = st.lists(st.tuples(st.sampled_from(NODES), DURATIONS), max_size=5)
NEAR = st.lists(
    st.tuples(st.sampled_from(NODES), st.sampled_from([5, 20, 60]), st.integers(0, 2), DURATIONS),
    min_size=1,
    max_size=8,
)


def delays(engine):
    """Why heads of queues wait although a node has room."""
    return [queue.delay for queue in engine._backlog.with_data if queue.delay is not None]


@settings(deadline=None)
@given(busy=BUSY, near=NEAR, ends=st.integers(0, 2))
def test_no_wait_is_longer_than_the_move_that_it_saves(busy, near, ends):
    """Nothing happens after the first functions, so only time ends a wait: after one move at most."""
    engine = PlacementEngine(SETTINGS)
    engine.handle_all([*(joined(name, cpu=2) for name in NODES), opened()], now=0)
    asked = [ready(n, cpu=1, pin=node, duration_s=s) for n, (node, s) in enumerate(busy)]
    running = list(placed(engine.handle_all(asked, now=0)))
    functions = [
        ready(("near", n), cpu=1, rank=rank, duration_s=s, arguments=[data(("of", n), node, megabytes=size)])
        for n, (node, size, rank, s) in enumerate(near)
    ]
    engine.handle_all(functions, now=0.1)
    changed_s = now = 0.1
    for function in running[:ends]:
        changed_s = now = now + 0.03
        engine.handle(finished(function), now=now)
    for _ in range(50):
        found = delays(engine)
        if not found:
            break
        due_s = engine.next_deadline()
        assert due_s is not None
        now = max(now, due_s)
        assert now <= changed_s + max(delay.move_s for delay in found) + 1e-6
        if placed(engine.handle(TimePassed(), now=now)):
            changed_s = now
    engine.check()
    assert not delays(engine)
    assert "data" not in engine.waiting_by_cause()
