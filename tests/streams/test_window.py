"""The window of a pipeline, without a cluster."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from handoff_dask.client.stream_window import Window


def test_an_item_is_inside_until_it_is_taken():
    window = Window([False], max_in_flight=2, ordered=True)
    assert [window.push("a"), window.push("b"), window.has_room] == [0, 1, False]
    assert (window.arrive(1, 0, "B"), window.arrive(1, 0, "again"), window.take()) == (True, False, None)
    assert window.arrive(0, 0, "A")
    assert (window.watermark, window.inside, window.unfinished) == (2, 2, {})
    assert (window.take(), window.has_room, window.take(), window.take()) == (
        (0, ["A"]),
        True,
        (1, ["B"]),
        None,
    )


def test_what_serves_every_item_is_part_of_each_result():
    window = Window([False, True], max_in_flight=9, ordered=False)
    for _ in range(3):
        window.push(None)
    assert not window.arrive(1, 0, "b")
    assert window.constant(1, "c") == [1]
    assert window.arrive(0, 0, "a")
    assert [window.take(), window.take(), window.take()] == [(1, ["b", "c"]), (0, ["a", "c"]), None]
    assert (window.watermark, window.done_above()) == (2, [])


@given(st.permutations([(n, sink) for n in range(8) for sink in (0, 1)]), st.booleans())
def test_any_order_of_arrival(arrivals, ordered):
    """Nothing is lost or doubled; in order where that is asked, else as items become complete."""
    window = Window([False, False], max_in_flight=8, ordered=ordered)
    numbers = [window.push(n) for n in range(8)]
    complete, out = [], []
    for n, sink in arrivals:
        if window.arrive(n, sink, (n, sink)):
            complete.append(n)
        assert not window.arrive(n, sink, "again")
        assert window.done_above() == sorted(set(complete) - set(range(window.watermark)))
        while (found := window.take()) is not None:
            assert found[1] == [(found[0], 0), (found[0], 1)]
            out.append(found[0])
    assert out == (numbers if ordered else complete)
    assert (window.inside, window.out, window.watermark) == (0, 8, 8)
