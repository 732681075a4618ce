"""How far functions are from the end of their DAG."""

from __future__ import annotations

from handoff_dask.placement.ordering import hops, upward_ranks

# 0 -> 1 -> 3, 0 -> 2 -> 3, and 4 alone
ORDER, DEPENDENTS = [4, 0, 2, 1, 3], [[1, 2], [3], [3], [], []]


def test_rank_is_the_longest_remaining_path():
    assert upward_ranks(ORDER, DEPENDENTS, [1.0, 5.0, 2.0, 4.0, 3.0]) == [10.0, 9.0, 6.0, 4.0, 3.0]


def test_durations_may_be_weighted():
    weights = [1.0, 0.0, 2.0, 0.5, 1.0]
    assert upward_ranks(ORDER, DEPENDENTS, [1.0, 5.0, 2.0, 4.0, 3.0], weights) == [7.0, 2.0, 6.0, 2.0, 3.0]


def test_without_durations_functions_are_counted():
    assert hops(ORDER, DEPENDENTS) == [3, 2, 2, 1, 1]


def test_nothing_has_no_ranks():
    assert (upward_ranks([], [], []), hops([], [])) == ([], [])
