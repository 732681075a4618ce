"""The systems that are compared: each runs the functions of a scenario on a cluster of its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import dask
from dask._task_spec import Task as DaskTask
from dask._task_spec import TaskRef
from distributed import Client, wait

import handoff_dask as handoff
from benchmarks import bodies
from benchmarks.cluster import cluster
from benchmarks.scenarios import Scenario
from handoff_dask.simulation import SimulatedFunction, SimulatedNode, Span
from handoff_dask.simulation.idleness import avoidable_idle
from handoff_dask.simulation.problem import ranks_of

#: ``{system: what it is}``.
SYSTEMS = {
    "dask": "stock Dask: one submission, resources= on every task",
    "dask-ranked": "stock Dask, the longest remaining paths, worked out by the user, as priority=",
    "placed": "the same graph and the same resources=, its tasks placed by handoff",
    "handoff": "handoff, expected durations given",
    "handoff-cold": "handoff, nothing known of durations",
    "handoff-warm": "handoff, nothing given, but the same DAG has run once before in the session",
}

#: A function counts as ready so long after its last argument is there.
GRACE_S = 0.05


@dataclass(frozen=True)
class Course:
    """What became of one scenario on one system."""

    system: str
    scenario: str
    #: ``"ok"``, or what went wrong.
    status: str
    makespan_s: float
    #: Share of it in which some ready function had room on some node and did not run.
    avoidable: float | None
    #: Highest used / available of any resource on any node.
    fullest: float | None
    #: Seconds that the functions took, over what they should have: above 1 the machine was too busy.
    stretch: float | None
    #: ``{function: (node, start, stop)}``, in seconds since the submission.
    spans: Mapping[str, tuple[str, float, float]]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def run(system: str, scenario: Scenario, *, strategy: str = "first_available", limit_s: float = 60) -> Course:
    """Run a scenario on a system."""
    with cluster(scenario.nodes) as client:
        if system == "placed":
            with handoff.Handoff(client, dask_tasks="place"):
                status, began, took_s = _run_dask(client, scenario, limit_s, ranked=False)
        elif system.startswith("dask"):
            status, began, took_s = _run_dask(client, scenario, limit_s, ranked=system == "dask-ranked")
        else:
            status, began, took_s = _run_handoff(client, scenario, limit_s, strategy, system)
        spans = _spans(client, scenario, began)
    idle, most, stretch = _measures(scenario, spans) if status == "ok" else (None, None, None)
    return Course(system, scenario.name, status, took_s, idle, most, stretch, spans)


def _run_dask(
    client: Client, scenario: Scenario, limit_s: float, *, ranked: bool
) -> tuple[str, float, float]:
    costs = {task.id: dict(task.cost) for task in scenario.tasks}
    more: dict[str, Any] = {}
    if ranked:
        more["priority"] = ranks_of(scenario.simulated()[0]).__getitem__
    graph = {
        task.id: DaskTask(task.id, bodies.sleep, *map(TaskRef, task.args), number, task.duration_s)
        for number, task in enumerate(scenario.tasks)
    }
    status = "ok"
    began = time.monotonic()
    with dask.annotate(resources=costs.__getitem__, **more):  # type: ignore[attr-defined]
        futures = client.get(graph, scenario.sinks, sync=False)
    try:
        wait(futures, timeout=limit_s)
        client.gather(futures)
    except (TimeoutError, asyncio.TimeoutError):
        status = "timeout"
    return status, began, time.monotonic() - began


def _run_handoff(
    client: Client, scenario: Scenario, limit_s: float, strategy: str, system: str
) -> tuple[str, float, float]:
    status, began, took_s = "ok", 0.0, 0.0
    with handoff.Handoff(client) as session:
        for _ in range(2 if system == "handoff-warm" else 1):
            client.run(bodies.take_ended)
            dag = handoff.DAG(scenario.name)
            for number, task in enumerate(scenario.tasks):
                dag.add_function(
                    handoff.Function(
                        task.id,
                        list(task.args),
                        bodies.sleep,
                        extra_args=(number, task.duration_s),
                        cost=dict(task.cost),
                        duration=task.duration_s if system == "handoff" else None,
                    )
                )
            began = time.monotonic()
            try:
                session.submit(dag, allocation_strategy=strategy).result(timeout=limit_s)
            except TimeoutError:
                status = "timeout"
            took_s = time.monotonic() - began
    return status, began, took_s


def _spans(client: Client, scenario: Scenario, began: float) -> dict[str, tuple[str, float, float]]:
    return {
        scenario.tasks[number].id: (node, round(start - began, 5), round(stop - began, 5))
        for node, ended in client.run(bodies.take_ended).values()
        for number, start, stop in ended
    }


def _measures(
    scenario: Scenario, spans: Mapping[str, tuple[str, float, float]]
) -> tuple[float, float, float]:
    functions, nodes = scenario.simulated()
    idle = avoidable_idle(functions, nodes, {key: Span(*span) for key, span in spans.items()}, GRACE_S)
    planned_s = sum(task.duration_s for task in scenario.tasks)
    took_s = sum(stop - start for _, start, stop in spans.values())
    return round(idle, 4), round(fullest(functions, nodes, spans), 4), round(took_s / planned_s, 4)


def fullest(
    functions: list[SimulatedFunction],
    nodes: list[SimulatedNode],
    spans: Mapping[Any, tuple[str, float, float]],
) -> float:
    """Highest used / available of any resource on any node: above 1 the node was over-committed.

    Examples
    --------
    >>> from handoff_dask.resources import Capabilities, Cost
    >>> two = [SimulatedFunction(n, 1.0, Cost.parse({"cpu": 3})) for n in "ab"]
    >>> node = SimulatedNode("n", Capabilities.parse({"cpu": 4}))
    >>> fullest(two, [node], {"a": ("n", 0, 1), "b": ("n", 0.5, 1.5)})
    1.5
    """
    offers = {node.name: node.capabilities.amounts for node in nodes}
    used: dict[tuple[str, str], int] = {}
    most = 0.0
    changes = []
    for function in functions:
        node, start, stop = spans[function.id]
        for resource, units in function.cost.amounts:
            changes += [(start, units, node, resource), (stop, -units, node, resource)]
    for _, units, node, resource in sorted(changes):
        used[node, resource] = used.get((node, resource), 0) + units
        most = max(most, used[node, resource] / offers[node][resource])
    return most
