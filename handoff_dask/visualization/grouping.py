"""Groups of functions with the same code, for pictures of graphs that are too large otherwise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from toolz import groupby

__all__ = ["Group", "Groups", "grouped"]

#: At most this many groups by name and level; beyond, by name alone.
BY_LEVEL = 60
#: At most this many groups by name; the functions with rarer names are one group.
BY_NAME = 80


@dataclass(slots=True)
class Group:
    """Functions that a picture shows as one."""

    #: The code's name.
    name: str
    #: ``{node name, or None: functions}``, the most first.
    nodes: Counter[str | None] = field(default_factory=Counter)
    #: ``{status: functions}``.
    statuses: Counter[str] = field(default_factory=Counter)
    #: ``{type: functions}``.
    types: Counter[str] = field(default_factory=Counter)
    #: Seconds that they ran, together.
    seconds: float = 0.0

    @property
    def count(self) -> int:
        """How many functions."""
        return self.statuses.total()


@dataclass(frozen=True, slots=True)
class Groups:
    """A graph of groups."""

    groups: Sequence[Group]
    #: ``{(index of the producers' group, of the consumers'): edges between them}``.
    edges: Mapping[tuple[int, int], int]


def grouped(nodes: Sequence[Mapping[str, Any]], edges: Sequence[Mapping[str, str]]) -> Groups:
    """Group functions by the code's name and how deep they stand in the graph.

    Where that gives too many groups: by the name alone, rare names together.

    Parameters
    ----------
    nodes, edges
        As of :class:`handoff_dask.visualization.ExecutionGraph`, producers first.
    """
    key_of = _keys(nodes, edges)
    groups: dict[Hashable, Group] = {}
    for node in nodes:
        key = key_of[node["id"]]
        group = groups.setdefault(key, Group(name=key[0]))
        group.nodes[node["node"]] += 1
        group.statuses[node["status"]] += 1
        group.types[node["type"]] += 1
        if node["start"] is not None and node["stop"] is not None:
            group.seconds += max(0.0, node["stop"] - node["start"])
    index = {key: number for number, key in enumerate(groups)}
    between: Counter[tuple[int, int]] = Counter()
    for edge in edges:
        pair = index[key_of[edge["source"]]], index[key_of[edge["target"]]]
        if pair[0] != pair[1]:
            between[pair] += 1
    return Groups(list(groups.values()), dict(between))


def _keys(
    nodes: Sequence[Mapping[str, Any]], edges: Sequence[Mapping[str, str]]
) -> dict[str, tuple[str, int]]:
    levels = levels_of(nodes, edges)
    keys = {node["id"]: (node["name"], levels[node["id"]]) for node in nodes}
    if len(set(keys.values())) <= BY_LEVEL:
        return keys
    frequent = [name for name, _ in Counter(node["name"] for node in nodes).most_common()]
    if len(frequent) > BY_NAME:
        shown = set(frequent[: BY_NAME - 1])
        others = f"{len(frequent) - len(shown)} other names"
    else:
        shown, others = set(frequent), ""
    return {node["id"]: (node["name"] if node["name"] in shown else others, 0) for node in nodes}


def levels_of(nodes: Sequence[Mapping[str, Any]], edges: Sequence[Mapping[str, str]]) -> dict[str, int]:
    """``{id: functions on the longest way to it}``, for nodes given producers first."""
    arriving = groupby(lambda edge: edge["target"], edges)
    levels: dict[str, int] = {}
    for node in nodes:
        ahead = (levels.get(edge["source"], -1) for edge in arriving.get(node["id"], ()))
        levels[node["id"]] = max(ahead, default=-1) + 1
    return levels
