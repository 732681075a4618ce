"""In which order: how far a function is from the end of its DAG.

Functions are numbers here, from 0 on, so that a DAG of a million functions needs a few lists.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["hops", "upward_ranks"]


def upward_ranks(
    order: Sequence[int],
    dependents: Sequence[Sequence[int]],
    durations: Sequence[float],
    weights: Sequence[float] | None = None,
) -> list[float]:
    """The longest remaining path from each function to the end, itself included.

    The *upward rank* of the HEFT algorithm (Topcuoglu, Hariri and Wu, 2002), without transfers.

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
        own = durations[function] if weights is None else durations[function] * weights[function]
        ranks[function] = own + longest
    return ranks


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
