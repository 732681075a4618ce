"""Scenarios: DAGs of functions with durations and costs, and the nodes they run on, as small files.

A file is one JSON object:

``name``, ``source``, ``notes``
    What it is, and where it is from.
``nodes``
    ``{node name: {resource: amount}}``.
``kinds``
    ``[[name, {resource: amount}], …]``: functions of one kind share a name and a cost.
``functions``
    ``[[kind, seconds, [how many places before it each argument stands, …]], …]``, in topological
    order.  A function's id is the name of its kind and its own place.
``bound_s``, ``best_s``
    A makespan that no schedule beats, and that of the best schedule which is known.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from handoff_dask.graph.bounds import longest_path, resource_bounds
from handoff_dask.graph.expansion import expand
from handoff_dask.graph.functions import Function
from handoff_dask.resources import Capabilities, Cost
from handoff_dask.simulation import SimulatedFunction, SimulatedNode

FOLDER = Path(__file__).parent / "scenarios"

#: Those that run unless others are asked for: each strains something else, together they take minutes.
HANDFUL = ("epigenomics", "fat-critical-path", "gpu-scarce-shuffled", "memory-packing", "nf-airrflow")


@dataclass(frozen=True)
class Task:
    """One function of a scenario."""

    id: str
    duration_s: float
    cost: Mapping[str, float]
    #: Ids of the functions whose results it takes.
    args: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scenario:
    """What runs, and on what."""

    name: str
    nodes: Mapping[str, Mapping[str, float]]
    #: In topological order.
    tasks: tuple[Task, ...]
    source: str = "synthetic"
    notes: str = ""
    bound_s: float = 0.0
    best_s: float = 0.0

    @property
    def sinks(self) -> list[str]:
        """Ids of the functions whose results nobody takes."""
        taken = {arg for task in self.tasks for arg in task.args}
        return [task.id for task in self.tasks if task.id not in taken]

    def simulated(self) -> tuple[list[SimulatedFunction], list[SimulatedNode]]:
        """The same for the simulation."""
        costs: dict[str, Cost] = {}
        functions = []
        for task in self.tasks:
            cost = costs.setdefault(_dumps(task.cost), Cost.parse(dict(task.cost)))
            functions.append(SimulatedFunction(task.id, task.duration_s, cost, task.args))
        nodes = [
            SimulatedNode(name, Capabilities.parse(dict(offer)), threads_of(offer))
            for name, offer in self.nodes.items()
        ]
        return functions, nodes

    def lower_bound(self) -> float:
        """Seconds below which no schedule ends: the longest path, or the work for some resource."""
        functions = [
            Function(t.id, list(t.args), abs, cost=dict(t.cost), duration=t.duration_s) for t in self.tasks
        ]
        expansion = expand(functions)
        nodes = {name: Capabilities.parse(dict(offer)) for name, offer in self.nodes.items()}
        able: dict[Any, frozenset[str]] = {}
        for function in functions:
            if function.needs not in able:
                holders = [name for name, offer in nodes.items() if offer.could_hold(function.needs)]
                able[function.needs] = frozenset(holders)
        hosts = {function.id: able[function.needs] for function in functions}
        bounds = [longest_path(expansion), *resource_bounds(expansion, nodes, hosts)]
        return max(bound.seconds for bound in bounds)

    def scaled_to(self, bound_s: float, least_s: float = 0.005) -> Scenario:
        """The same with all durations multiplied by one factor, so that the bound is what is wished.

        No function gets shorter than ``least_s``, so the factor is found by trying.
        """
        low, high = 0.0, 2 * bound_s / max(self.lower_bound(), 1e-9)
        for _ in range(40):
            middle = (low + high) / 2
            if self._times(middle, least_s).lower_bound() < bound_s:
                low = middle
            else:
                high = middle
        return self._times(high, least_s)

    def _times(self, factor: float, least_s: float) -> Scenario:
        tasks = [replace(t, duration_s=max(least_s, round(t.duration_s * factor, 5))) for t in self.tasks]
        return replace(self, tasks=tuple(tasks))


def threads_of(offer: Mapping[str, float]) -> int:
    """How many threads a node gets: one per core, so that threads are never scarcer than cores."""
    return max(1, int(offer["cpu"]))


def read(path: Path) -> Scenario:
    """Read a file."""
    data = json.loads(path.read_text(encoding="utf-8"))
    kinds = data["kinds"]
    tasks: list[Task] = []
    for place, (number, duration_s, back) in enumerate(data["functions"]):
        name, cost = kinds[number]
        args = tuple(tasks[place - steps].id for steps in back)
        tasks.append(Task(f"{name}-{place:05d}", duration_s, cost, args))
    more = {key: data[key] for key in ("name", "nodes", "source", "notes", "bound_s", "best_s")}
    return Scenario(tasks=tuple(tasks), **more)


def write(scenario: Scenario, folder: Path) -> Path:
    """Write a file, one function to a line; ids become the kind's name and the place."""
    kinds: dict[str, int] = {}
    place = {task.id: n for n, task in enumerate(scenario.tasks)}
    rows = []
    for n, task in enumerate(scenario.tasks):
        kind = kinds.setdefault(_dumps([task.id.rpartition("-")[0], task.cost]), len(kinds))
        rows.append(_dumps([kind, task.duration_s, [n - place[arg] for arg in task.args]]))
    head = {key: getattr(scenario, key) for key in ("name", "source", "notes", "bound_s", "best_s")}
    lines = [f"{_dumps(key)}:{_dumps(value)}," for key, value in head.items()]
    lines += [f'"nodes":{_dumps(scenario.nodes)},', '"kinds":[' + ",\n".join(kinds) + "],"]
    path = folder / f"{scenario.name}.json"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "{" + "\n".join(lines) + '\n"functions":[\n' + ",\n".join(rows) + "\n]}\n", encoding="utf-8"
    )
    return path


def _dumps(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def load(only: Iterable[str] = (), *, folder: Path = FOLDER) -> Iterator[Scenario]:
    """Read the scenarios of a folder that have one of these names or patterns; all if none is given."""
    words = list(only)
    paths = sorted(folder.glob("*.json"))
    found = [p for p in paths if not words or any(fnmatchcase(p.stem, word) for word in words)]
    if not found:
        raise SystemExit(f"no scenario is called {words}; there are {', '.join(p.stem for p in paths)}")
    return map(read, found)
