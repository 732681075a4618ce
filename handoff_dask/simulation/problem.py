"""What is simulated: functions whose durations are known, and nodes."""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from handoff_dask.placement.demand import Demand, GroupKey
from handoff_dask.placement.ranking import upward_ranks
from handoff_dask.placement.strategies import ScoredStrategy
from handoff_dask.resources import NOTHING, Capabilities, Cost


@dataclass(frozen=True, slots=True)
class SimulatedFunction:
    """A function of which all is known beforehand."""

    id: Hashable
    #: Seconds it runs.
    duration_s: float
    cost: Cost = NOTHING
    #: Ids of the functions it waits for.
    args: tuple[Hashable, ...] = ()
    #: Name of the only node it may run on.
    pin: str | None = None
    #: The collocation group it belongs to.
    group: GroupKey | None = None
    priority: float = 0
    #: When it may start at the earliest.
    release_s: float = 0.0
    #: Size of its result.
    nbytes: int = 0

    def running(self, node: str, left_s: float) -> SimulatedFunction:
        """The same while it runs: what is left of it starts at once, on its node."""
        return SimulatedFunction(self.id, left_s, self.cost, pin=node, priority=math.inf, nbytes=self.nbytes)

    @property
    def demand(self) -> Demand:
        """What it asks of a node."""
        return Demand(self.cost, pin=self.pin, group=self.group)


@dataclass(frozen=True, slots=True)
class SimulatedNode:
    """A node of which all is known beforehand."""

    name: str
    capabilities: Capabilities
    #: Functions that run at once, whatever they cost.
    threads: int = 1_000


@dataclass(frozen=True, slots=True)
class Span:
    """When and where a function ran."""

    node: str
    start_s: float
    stop_s: float


@dataclass(frozen=True, slots=True)
class Problem:
    """What is left of a run.

    A function that runs already takes what is left of it, is pinned to its node, and has an
    infinite priority, so that it starts at once.
    """

    #: In topological order, all released.
    functions: Sequence[SimulatedFunction]
    nodes: Sequence[SimulatedNode]
    strategy: ScoredStrategy
    #: ``{function: rank}``, by which it is ordered now.
    ranks: Mapping[Hashable, float]
    groups: Mapping[GroupKey, Demand] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Scenario:
    """A problem: functions in topological order, and nodes."""

    name: str
    functions: tuple[SimulatedFunction, ...]
    nodes: tuple[SimulatedNode, ...]

    def ranks(self) -> dict[Hashable, float]:
        """The longest remaining path of each function, in seconds."""
        return ranks_of(self.functions)


def ranks_of(functions: Sequence[SimulatedFunction]) -> dict[Hashable, float]:
    """The longest remaining path of each function, in seconds; in topological order."""
    number = {function.id: n for n, function in enumerate(functions)}
    dependents: list[list[int]] = [[] for _ in functions]
    for n, function in enumerate(functions):
        for arg in function.args:
            dependents[number[arg]].append(n)
    ranks = upward_ranks(range(len(functions)), dependents, [f.duration_s for f in functions])
    return dict(zip(number, ranks, strict=True))


def load_scenario(source: Path | Mapping[str, Any]) -> Scenario:
    """Read a scenario from a JSON file, or from what such a file holds.

    Its shape is ``{"name", "nodes": [{"name", "capacity": {resource: amount}}], "tasks": [{"id",
    "duration_s", "cost": {resource: amount}, "deps": [id, …]}]}``, tasks in topological order.
    """
    data = json.loads(source.read_text()) if isinstance(source, Path) else source
    costs: dict[str, Cost] = {}
    functions = []
    for task in data["tasks"]:
        # Thousands of tasks share a few costs.
        cost = costs.setdefault(json.dumps(task["cost"], sort_keys=True), Cost.parse(task["cost"]))
        functions.append(SimulatedFunction(task["id"], task["duration_s"], cost, tuple(task["deps"])))
    nodes = [SimulatedNode(node["name"], Capabilities.parse(node["capacity"])) for node in data["nodes"]]
    return Scenario(data["name"], tuple(functions), tuple(nodes))
