"""A node is sick when it only fails, and its functions end well elsewhere."""

from __future__ import annotations

from handoff_dask.scheduler.node_health import LONGEST_S, NodeHealth


def test_functions_that_fail_everywhere_make_no_node_sick():
    health = NodeHealth(3, 60.0)
    for n in range(9):
        assert health.failed("ab"[n % 2], f"f{n % 3}", n) == []
    assert health.sick() == frozenset()


def test_one_function_alone_makes_no_node_sick():
    health = NodeHealth(3, 60.0)
    for n in range(5):
        health.failed("a", "f", n)
    assert health.ended_well("b", "f", 6) == []


def test_a_success_there_clears_the_account():
    health = NodeHealth(2, 60.0)
    health.failed("a", "f", 0)
    health.ended_well("a", "h", 1)
    health.failed("a", "g", 2)
    assert health.ended_well("b", "f", 3) == []
    assert health.ended_well("b", "g", 4) == []


def test_only_the_last_attempts_count():
    health = NodeHealth(2, 60.0)
    for name in ("f", "g", "h"):
        health.failed("a", name, 0)
    assert health.ended_well("b", "f", 1) == []
    assert health.ended_well("b", "h", 1) == ["a"]


def test_each_time_it_is_set_aside_for_twice_as_long():
    health = NodeHealth(2, 60.0)
    health.failed("a", "f", 0)
    health.failed("a", "g", 0)
    assert health.ended_well("b", "f", 0) == ["a"]
    now, spans = 0.0, []
    for _ in range(8):
        until = health.next_over()
        assert until is not None
        spans.append(until - now)
        now = until
        assert health.over(now) == ["a"]
        assert health.sick() == frozenset()
        assert health.failed("a", "h", now) == ["a"]
    assert spans == [60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, LONGEST_S, LONGEST_S]
    health.left("a")
    assert (health.sick(), health.next_over()) == (frozenset(), None)


def test_nothing_is_kept_of_nodes_that_are_well():
    health = NodeHealth(2, 60.0)
    for n in range(10):
        health.failed("a", n, n)
    health.ended_well("a", "x", 11)
    assert (health._nodes, health._where) == ({}, {})


def test_zero_is_never():
    health = NodeHealth(0, 60.0)
    for n in range(10):
        assert health.failed("a", n, n) == []
