"""In which order: how far a function is from the end of its DAG.

Functions are numbers here, from 0 on, so that a DAG of a million functions needs a few lists.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from handoff_dask.resources import Capabilities, Cost

__all__ = ["apart", "hops", "scarcities", "starting_ranks", "upward_ranks", "widths"]

#: Functions from which on a run is large: a rule of thumb for its order beats plain paths.
LARGE = 64
#: How much a duration counts beside how hard the function is to place, and a path beside the width
#: of the function that it starts with.
PLAIN, NARROW = 0.25, 0.25


def upward_ranks(
    order: Sequence[int],
    dependents: Sequence[Sequence[int]],
    durations: Sequence[float],
    weights: Sequence[float] | None = None,
    moves: Mapping[tuple[int, int], float] | None = None,
) -> list[float]:
    """The longest remaining path from each function to the end, itself included.

    The *upward rank* of the HEFT algorithm (Topcuoglu, Hariri and Wu, 2002); of transfers only those count
    that no placement could avoid.

    Parameters
    ----------
    order
        All functions in topological order (producers before consumers).
    dependents
        For each function those that take its result.
    durations
        Expected seconds of each function.
    weights
        What each duration counts, 1 if absent.
    moves
        ``{(function, dependent): seconds}`` that a result is on its way whatever nodes are chosen.

    Returns
    -------
    list of float
        Seconds, by function.

    Examples
    --------
    >>> upward_ranks([0, 1, 2], [[1, 2], [], []], [1.0, 5.0, 2.0])
    [6.0, 5.0, 2.0]
    """
    ranks = [0.0] * len(dependents)
    for function in reversed(order):
        longest = 0.0
        for dependent in dependents[function]:
            if ranks[dependent] > longest:
                longest = ranks[dependent]
        if moves:
            after = (ranks[d] + moves.get((function, d), 0.0) for d in dependents[function])
            longest = max(after, default=0.0)
        own = durations[function] if weights is None else durations[function] * weights[function]
        ranks[function] = own + longest
    return ranks


def starting_ranks(
    order: Sequence[int],
    dependents: Sequence[Sequence[int]],
    durations: Sequence[float],
    kinds: Sequence[int],
    costs: Sequence[Cost],
    nodes: Sequence[Capabilities],
    moves: Mapping[tuple[int, int], float] | None = None,
) -> list[float]:
    """The order that a run starts with.

    In a small run, or one in which all cost the same, the longest remaining path.  In a large one
    what is hard to place goes earlier: durations are weighed by :func:`scarcities`, and the path
    counts the more, the wider the function is that it starts with (:func:`widths`).

    Parameters
    ----------
    order, dependents, durations
        As in :func:`upward_ranks`.
    kinds
        For each function the number of its cost.
    costs
        The different costs.
    nodes
        What each node has.
    moves
        As in :func:`upward_ranks`.
    """
    if len(kinds) < LARGE or len(costs) < 2:
        return upward_ranks(order, dependents, durations, moves=moves)
    hard = [PLAIN + scarcity for scarcity in scarcities(costs, nodes)]
    ranks = upward_ranks(order, dependents, durations, [hard[kind] for kind in kinds], moves)
    wide = [NARROW + width for width in widths(costs, nodes)]
    return [rank * wide[kind] for rank, kind in zip(ranks, kinds, strict=True)]


def apart(hosts: Sequence[frozenset[str]]) -> frozenset[tuple[int, int]]:
    """Pairs of demands that no node could hold both, by number: a result moves between their functions.

    Examples
    --------
    >>> sorted(apart([frozenset("ab"), frozenset("bc"), frozenset("c")]))
    [(0, 2), (2, 0)]
    """
    different = [number for number, names in enumerate(hosts) if names]
    if not different or frozenset.intersection(*(hosts[number] for number in different)):
        return frozenset()
    return frozenset((i, j) for i in different for j in different if hosts[i].isdisjoint(hosts[j]))


def hops(order: Sequence[int], dependents: Sequence[Sequence[int]]) -> list[int]:
    """How many functions the longest remaining path has: the rank while no duration is known.

    Examples
    --------
    >>> hops([0, 1, 2], [[1], [2], []])
    [3, 2, 1]
    """
    counts = [0] * len(dependents)
    for function in reversed(order):
        counts[function] = 1 + max((counts[d] for d in dependents[function]), default=0)
    return counts


def scarcities(costs: Sequence[Cost], nodes: Sequence[Capabilities]) -> list[float]:
    """How hard functions of some costs are to place, between 0 and 1, the hardest being 1.

    A cost is the harder to place, the larger its share is of what all nodes that could hold it
    have together, of its scarcest resource.

    Parameters
    ----------
    costs
        The different costs.
    nodes
        What each node has.

    Returns
    -------
    list of float
        By cost; 1 for a cost that no node could hold.

    Examples
    --------
    >>> nodes = [Capabilities.parse({"cpu": 4}), Capabilities.parse({"cpu": 4, "gpu": 1})]
    >>> scarcities([Cost.parse({"cpu": 2}), Cost.parse({"cpu": 1, "gpu": 1})], nodes)
    [0.25, 1.0]
    """
    shares = []
    for cost in costs:
        eligible = [node for node in nodes if node.could_hold(cost)]
        share = 0.0
        for name, units in cost.amounts:
            share = max(share, units / (sum(node.amounts.get(name, 0) for node in eligible) or units))
        shares.append(share)
    most = max(shares, default=0.0) or 1.0
    return [share / most for share in shares]


def widths(costs: Sequence[Cost], nodes: Sequence[Capabilities]) -> list[float]:
    """The share that functions of some costs take of the largest node, of what they take most of.

    Examples
    --------
    >>> nodes = [Capabilities.parse({"cpu": 4, "memory": 100}), Capabilities.parse({"cpu": 8})]
    >>> widths([Cost.parse({"cpu": 2, "memory": 50}), Cost.parse({"cpu": 8}), Cost.parse({})], nodes)
    [0.5, 1.0, 0.0]
    """
    most: dict[str, int] = {}
    for node in nodes:
        for name, units in node.amounts.items():
            most[name] = max(most.get(name, 0), units)
    return [max((units / (most.get(name) or units) for name, units in c.amounts), default=0.0) for c in costs]
