"""How far functions are from the end of their DAG."""

from __future__ import annotations

from handoff_dask.placement.ranking import apart, hops, starting_ranks, upward_ranks, widths
from handoff_dask.resources import Capabilities, Cost

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


def test_width_is_a_share_of_the_largest_node():
    nodes = [Capabilities.parse({"cpu": 2}), Capabilities.parse({"cpu": 8, "gpu": 1})]
    costs = [
        Cost.parse({"cpu": 2}),
        Cost.parse({"cpu": 1, "gpu": 0.5}),
        Cost.parse({"tape": 1}),
        Cost.parse({}),
    ]
    assert widths(costs, nodes) == [0.25, 0.5, 1.0, 0.0]


def test_without_nodes_all_are_as_hard_to_place():
    """A run may be there before any node is."""
    costs = [Cost.parse({"cpu": 2}), Cost.parse({"gpu": 1})]
    ranks = starting_ranks(range(64), [[] for _ in range(64)], [2.0] * 64, [0, 1] * 32, costs, [])
    assert ranks == [2.0 * 1.25 * 1.25] * 64


def test_moves_that_cannot_be_avoided_lengthen_the_path():
    moves = {(0, 2): 4.0, (2, 3): 1.0}
    assert upward_ranks([0, 1, 2, 3], [[1, 2], [], [3], []], [1.0, 5.0, 2.0, 1.0], moves=moves) == [
        9,
        5,
        4,
        1,
    ]
    assert upward_ranks([0, 1], [[1], []], [1.0, 5.0], [2.0, 1.0], {(0, 1): 3.0}) == [10, 5]


def test_demands_that_no_node_could_hold_both_are_apart():
    assert apart([frozenset("ab"), frozenset(), frozenset("b")]) == frozenset()
    assert apart([frozenset("ab"), frozenset(), frozenset("c")]) == {(0, 2), (2, 0)}
    assert apart([]) == frozenset()
