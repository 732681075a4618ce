"""Where data is and what moving it costs, by itself."""

from __future__ import annotations

import pytest

from handoff_dask.placement.clock import Clock
from handoff_dask.placement.network import Network
from handoff_dask.placement.settings import EngineSettings
from tests.placement.facts import data


@pytest.fixture
def network():
    """100 MB per second, a latency of 10 ms, at 0 s."""
    clock = Clock()
    clock.now = 0.0
    return Network(clock, EngineSettings(bandwidth=100e6, latency_s=0.01))


def test_move_takes_a_latency_and_the_bytes_over_the_bandwidth(network):
    taken = network.refer([data("x", "a", megabytes=50)])
    assert network.move_s(taken, "a") == 0
    assert network.move_s(taken, "b") == pytest.approx(0.51)
    assert network.missing_s(taken, "b") == network.alone_s(taken) == pytest.approx(0.51)
    assert network.missing_s(taken, "a") == 0


def test_arguments_come_one_after_the_other_by_the_node_s_link(network):
    taken = network.refer([data("x", "a", megabytes=50), data("y", "b", megabytes=20)])
    assert network.move_s(taken, "c") == pytest.approx(0.71)
    assert network.move_s(taken, "b") == pytest.approx(0.51)
    assert network.held(taken) == {"a": 50_000_000, "b": 20_000_000}


def test_what_is_on_its_way_moves_once(network):
    taken = network.refer([data("x", "a", megabytes=50)])
    assert network.take(taken, "b")[1] == 50_000_000
    assert network.take(taken, "b")[1] == 0
    network._clock.now = 0.2
    assert network.move_s(taken, "b") == pytest.approx(0.31)
    network._clock.now = 0.6
    assert network.move_s(taken, "b") == 0


def test_links_are_shared_inwards_and_outwards(network):
    x, y = network.refer([data("x", "a", megabytes=50)]), network.refer([data("y", "b", megabytes=50)])
    network.take(x, "c")
    # The link to c is busy for half a second, the one from a as long.
    assert network.move_s(y, "c") == pytest.approx(1.01)
    assert network.move_s(x, "d") == pytest.approx(1.01)
    assert network.move_s(y, "d") == pytest.approx(0.51)
    network._clock.now = 0.3
    assert network.move_s(y, "c") == pytest.approx(0.71)


def test_a_copy_is_a_source_once_it_is_there(network):
    taken = network.refer([data("x", "a", megabytes=50)])
    network.take(taken, "b")
    # From a, whose link is busy, it would take as long as from b, which has it in half a second.
    assert network.move_s(taken, "c") == pytest.approx(1.01)
    network._clock.now = 2.0
    network.take(taken, "d")
    assert network.move_s(taken, "c") == pytest.approx(0.51)


def test_pairs_have_their_own_bandwidth(network):
    taken = network.refer([data("x", "a", "b", megabytes=50)])
    network.measured(None, None, {("a", "c"): 10e6, ("b", "d"): 1e6, ("a", "d"): 1e6})
    assert network.move_s(taken, "c") == pytest.approx(0.51)
    assert network.move_s(taken, "d") == pytest.approx(50.01)
    network.measured(50e6, 0.0, None)
    assert network.move_s(taken, "c") == pytest.approx(1.0)
    assert network.move_s(taken, "d") == pytest.approx(50.0)


def test_what_has_arrived_sooner_than_thought_frees_the_link(network):
    x, y = network.refer([data("x", "a", megabytes=50)]), network.refer([data("y", "b", megabytes=50)])
    network.take(x, "c")
    network._clock.now = 0.1
    network.release(network.refer([data("x", "a", megabytes=50)]), arrived="c")
    assert network.move_s(x, "c") == 0
    assert network.move_s(y, "c") == pytest.approx(0.51)


def test_data_is_forgotten_with_the_last_that_refers_to_it(network):
    x = network.refer([data("x", "a"), data("x", "a")])
    assert len(x) == 1
    again = network.refer([data("x", "b")])
    assert again[0] is x[0]
    # What nobody reports any more is gone.
    assert list(x[0].places) == ["b"]
    network.release(x)
    assert list(network.data) == ["x"]
    network.release(again)
    assert network.data == {}


def test_a_node_that_leaves_takes_its_copies_with_it(network):
    taken = network.refer([data("x", "a", "b", megabytes=50)])
    network.take(taken, "c")
    network.node_left("b")
    network.node_left("c")
    assert list(taken[0].places) == ["a"]
    assert network.move_s(taken, "c") == pytest.approx(1.01)
    network.node_left("a")
    assert network.move_s(taken, "c") == pytest.approx(0.51)
