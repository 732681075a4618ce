"""The items of one stage's worker, without a cluster: order, joins, batches, losses."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from handoff_dask.graph.stages import CONSTANT
from handoff_dask.worker.stage_items import StageItems


def taken(items: StageItems, now: float = 0.0) -> list[int]:
    return [ready.number for ready in items.take(now)]


def test_an_item_goes_when_it_has_all_its_values():
    """Values come in any order, and twice; each item is given out once, with its own values."""
    items = StageItems([False, False])
    items.arrive(1, 0, "a1", 0)
    items.arrive(0, 1, "b0", 0)
    assert items.take(0) == []
    items.arrive(0, 0, "a0", 0)
    items.arrive(0, 0, "again", 0)
    assert [(r.number, r.values) for r in items.take(0)] == [(0, ("a0", "b0"))]
    items.arrive(0, 0, "again", 0)
    assert (items.take(0), items.running, items.is_idle(0)) == ([], 1, False)
    assert items.settle(0, "result", 0)
    assert items.is_idle(0)


def test_what_serves_every_item_is_waited_for_once():
    items = StageItems([True, False])
    items.arrive(0, 1, "x0", 0)
    assert items.take(0) == []
    items.arrive(CONSTANT, 0, "c", 0)
    items.arrive(1, 1, "x1", 0)
    assert [r.values for r in items.take(0)] == [("c", "x0"), ("c", "x1")]


def test_a_stage_without_items_runs_once():
    items = StageItems([True])
    items.begin_constant(0)
    assert items.take(0) == []
    items.arrive(CONSTANT, 0, "c", 0)
    items.arrive(CONSTANT, 0, "again", 0)
    assert [(r.number, r.values) for r in items.take(0)] == [(CONSTANT, ("c",))]
    items.settle(CONSTANT, "value", 0)
    items.done(5, [], 0)
    assert items.again() == [(CONSTANT, "value")]


def test_a_batch_waits_for_its_size_its_time_or_a_flush():
    items = StageItems([False], batch_size=2, batch_timeout=1.0)
    items.arrive(0, 0, "x", 10.0)
    assert (taken(items, 10.9), items.next_moment()) == ([], 11.0)
    assert taken(items, 11.0) == [0]
    for n in (1, 2, 3):
        items.arrive(n, 0, "x", 12.0)
    assert (taken(items, 12.0), taken(items, 12.0)) == ([1, 2], [])
    items.flush()
    assert taken(items, 12.0) == [3]


def test_an_item_that_lacks_a_value_for_too_long():
    items = StageItems([False, False], join_timeout=1.0)
    items.arrive(0, 0, "a", 0.0)
    items.arrive(1, 0, "a", 0.5)
    items.arrive(1, 1, "b", 0.6)
    assert (items.next_moment(), items.late(0.9), items.late(1.0)) == (1.0, [], [(0, [1])])
    items.arrive(0, 1, "b", 1.1)
    assert taken(items) == [1]
    assert items.late(9.0) == []


def test_a_failure_is_passed_on_once():
    items = StageItems([False, False], in_order=True)
    items.arrive(1, 0, "a", 0)
    items.arrive(1, 1, "b", 0)
    assert taken(items) == []
    assert (items.fail(0, 0), items.fail(0, 0)) == (True, False)
    items.arrive(0, 1, "b", 0)
    assert taken(items) == [1]


def test_what_is_done_with_is_forgotten_and_not_taken_again():
    items = StageItems([False], parallelism=2, worker=1, in_order=True)
    items.arrive(3, 0, "x", 0)
    items.done(1, [1], 0)
    assert taken(items) == [3]
    items.settle(3, "r", 0)
    items.done(4, [], 0)
    items.arrive(1, 0, "x", 0)
    items.arrive(3, 0, "x", 0)
    assert (taken(items), items.again(), items.waiting) == ([], [], 0)


@given(
    st.permutations(range(12)),
    st.integers(1, 3),
    st.booleans(),
    st.sampled_from([None, 1, 3]),
    st.data(),
)
def test_any_course_of_events(order, parallelism, in_order, batch_size, data):
    """Every item is worked on once, in order if that is asked; kept results can be sent again."""
    worker = data.draw(st.integers(0, parallelism - 1))
    items = StageItems(
        [False, False], worker=worker, parallelism=parallelism, batch_size=batch_size, in_order=in_order
    )
    mine = [n for n in order if n % parallelism == worker]
    arrivals = [(n, slot) for n in mine for slot in (0, 1)]
    arrivals += data.draw(st.lists(st.sampled_from(arrivals), max_size=6))
    worked: list[int] = []
    sent: Counter[int] = Counter()
    for n, slot in data.draw(st.permutations(arrivals)):
        items.arrive(n, slot, (n, slot), 0)
        if data.draw(st.booleans()):
            for ready in items.take(0):
                worked.append(ready.number)
                assert ready.values == ((ready.number, 0), (ready.number, 1))
                assert items.settle(ready.number, f"result {ready.number}", 0)
    items.flush()
    while batch := items.take(0):
        for ready in batch:
            worked.append(ready.number)
            items.settle(ready.number, f"result {ready.number}", 0)
        items.flush()
    assert sorted(worked) == sorted(mine)
    assert not in_order or worked == sorted(mine)
    assert items.again() == [(n, f"result {n}") for n in sorted(mine)]
    out = data.draw(st.integers(0, 12))
    items.done(out, [], 0)
    for n, result in items.again():
        sent[n] += 1
        assert result == f"result {n}"
    assert sent == Counter(n for n in mine if n >= out)
