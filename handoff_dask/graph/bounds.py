"""Lower bounds on the makespan of a DAG, which no placement can beat."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

from handoff_dask.graph.expansion import Expansion
from handoff_dask.graph.functions import FunctionId
from handoff_dask.resources import Capabilities

__all__ = ["Bound", "longest_path", "resource_bounds"]

# Pairs of sets of nodes are joined up to so many sets: the work grows with the third power.
_MOST_SETS_TO_PAIR = 48


@dataclass(frozen=True, slots=True)
class Bound:
    """A time below which a DAG cannot end, and what sets it.

    Examples
    --------
    >>> str(Bound(2.5, resource="gpu", nodes=("b", "c")))
    "gpu on 'b', 'c'"
    """

    #: Seconds from the start of the DAG to its end.
    seconds: float
    #: The ids of the longest path, if it is that which sets the bound.
    path: tuple[FunctionId, ...] = ()
    #: The resource of which there is too little, otherwise.
    resource: str | None = None
    #: Names of the nodes that alone have it for the functions concerned.
    nodes: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.resource is None:
            ids = [repr(key) for key in self.path]
            shown = ids if len(ids) <= 6 else [*ids[:3], f"({len(ids) - 5} more)", *ids[-2:]]
            return f"the path {' -> '.join(shown)}"
        names = [repr(node) for node in self.nodes]
        shown = names if len(names) <= 4 else [*names[:3], f"{len(names) - 3} more"]
        return f"{self.resource} on {', '.join(shown)}"


_NONE = Bound(0.0)


def longest_path(
    expansion: Expansion, moves: Mapping[tuple[FunctionId, FunctionId], float] | None = None
) -> Bound:
    """The path of functions, each of which takes the one before, that lasts longest.

    A function without a ``duration`` counts for nothing.

    Parameters
    ----------
    expansion
        What runs.
    moves
        ``{(producer, consumer): seconds}`` that a result takes from one to the other at least.

    Examples
    --------
    >>> from handoff_dask.graph.expansion import expand
    >>> from handoff_dask.graph.functions import Function
    >>> path = longest_path(expand([Function(1, [], int, duration=2), Function(2, [1], abs, duration=1)]))
    >>> path.seconds, path.path
    (3.0, (1, 2))
    """
    rank: dict[FunctionId, float] = {}
    follower: dict[FunctionId, FunctionId] = {}
    for key, body in reversed(list(expansion.bodies.items())):
        rank[key] = rank.get(key, 0.0) + float(body.function.duration or 0.0)
        for producer in body.waits_for:
            tail = rank[key] + (moves.get((producer, key), 0.0) if moves else 0.0)
            if tail > rank.get(producer, 0.0):
                rank[producer] = tail
                follower[producer] = key
    starts = [key for key in rank if key in expansion.bodies]
    if not starts:
        return Bound(0.0)
    path = [max(starts, key=rank.__getitem__)]
    while path[-1] in follower:
        path.append(follower[path[-1]])
    return Bound(rank[path[0]], path=tuple(path))


def resource_bounds(
    expansion: Expansion,
    nodes: Mapping[str, Capabilities],
    hosts: Mapping[FunctionId, frozenset[str]],
) -> list[Bound]:
    """For each resource and each set of nodes: the work that only these can do, by what they have.

    The sets are those that can hold some function when idle, the joins of any two of these, and
    all nodes.  The method is the usual area bound, taken over subsets.

    Parameters
    ----------
    expansion
        What runs.
    nodes
        ``{name: what it offers}``.
    hosts
        ``{function id: names of the nodes that can hold it}``; a function without any is left out.
    """
    bit = {name: 1 << i for i, name in enumerate(nodes)}
    work = _work(expansion, hosts, bit)
    bounds: dict[tuple[str, tuple[str, ...]], Bound] = {}
    for among in _joined(list(work), (1 << len(bit)) - 1):
        total: dict[str, float] = defaultdict(float)
        for hosting, amounts in work.items():
            if hosting & ~among == 0:
                for resource, area in amounts.items():
                    total[resource] += area
        for resource, area in total.items():
            offers = {name: nodes[name].amounts.get(resource, 0) for name in nodes if bit[name] & among}
            having = tuple([name for name, units in offers.items() if units])
            bound = Bound(area / sum(offers.values()), resource=resource, nodes=having)
            # Sets that differ by nodes without the resource alone: the one with more work counts.
            if bound.seconds > bounds.get((resource, having), _NONE).seconds:
                bounds[resource, having] = bound
    return list(bounds.values())


def _work(
    expansion: Expansion, hosts: Mapping[FunctionId, frozenset[str]], bit: Mapping[str, int]
) -> dict[int, dict[str, float]]:
    """``{set of nodes, as bits: {resource: units times seconds that only these can give}}``."""
    masks: dict[frozenset[str], int] = {}
    work: dict[int, dict[str, float]] = {}
    for key, body in expansion.bodies.items():
        duration = body.function.duration
        able = hosts.get(key)
        if not duration or not able:
            continue
        if able not in masks:
            masks[able] = sum(bit[name] for name in able)
        areas = work.setdefault(masks[able], defaultdict(float))
        for resource, units in body.function.needs.amounts:
            areas[resource] += units * duration
    return work


def _joined(masks: list[int], everything: int) -> list[int]:
    found = dict.fromkeys([*masks, everything])
    if len(masks) <= _MOST_SETS_TO_PAIR:
        found.update(dict.fromkeys(a | b for a, b in combinations(masks, 2)))
    return list(found)
