"""What a function costs that does nothing: to run, and to submit."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import dask
from dask._task_spec import Task as DaskTask
from dask._task_spec import TaskRef
from distributed import Client

import handoff_dask as handoff
from benchmarks import bodies
from benchmarks.cluster import cluster
from benchmarks.turns import Session, in_process

#: Four nodes of two cores.
NODES = {f"n{i}": {"cpu": 2, "memory_mb": 8000} for i in range(4)}
COST = {"cpu": 1, "memory_mb": 100}

#: Functions of a layer, and how many of the layer before each of them takes.
WIDE, TAKES = 100, 3

#: ``{id: ids of what it takes}``.
Graph = dict[str, list[str]]


def independent(count: int) -> Graph:
    """Functions that take nothing."""
    return {f"f-{n:06d}": [] for n in range(count)}


def layered(count: int) -> Graph:
    """Layers of functions, each of which takes three of the layer before."""
    graph: Graph = {}
    for n in range(count):
        before, place = n - n % WIDE - WIDE, n % WIDE
        graph[f"f-{n:06d}"] = [
            f"f-{before + (place + k) % WIDE:06d}" for k in range(TAKES if before >= 0 else 0)
        ]
    return graph


GRAPHS = {"independent": independent, "layered": layered}


class Job:
    """A graph of functions that do nothing, ready to be submitted to one of the systems."""

    def __init__(self, system: str, graph: Graph, gate: str | None = None) -> None:
        taken = {arg for args in graph.values() for arg in args}
        #: The functions whose results are asked for: nobody else takes them.
        self.wanted = [key for key in graph if key not in taken]
        self.system = system
        self.size = len(graph)
        codes: dict[str, tuple[Any, ...]] = {} if gate is None else {"gate": (bodies.wait_for_gate, gate)}
        self.dag = handoff.DAG()
        self.tasks: dict[str, DaskTask] = {}
        for key, args in graph.items():
            code, *extra = codes.get(key, (bodies.nothing,))
            if system == "handoff":
                function = handoff.Function(key, args, code, extra_args=tuple(extra), cost=COST)
                self.dag.add_function(function)
            else:
                self.tasks[key] = DaskTask(key, code, *map(TaskRef, args), *extra)

    def submit(self, client: Client, session: handoff.Handoff | None) -> Any:
        """Submit it; what is returned keeps it alive."""
        if session is not None:
            return session.submit(self.dag, outputs=self.wanted)
        told = {"resources": lambda key: COST} if self.system == "dask" else {}
        with dask.annotate(**told):  # type: ignore[attr-defined]
            return client.get(self.tasks, self.wanted, sync=False)


def _session(stack: ExitStack, system: str, client: Client) -> handoff.Handoff | None:
    return stack.enter_context(handoff.Handoff(client)) if system == "handoff" else None


def running(system: str, graph: str, count: int) -> dict[str, Any]:
    """Run functions that do nothing, from the submission to the last result."""
    job = Job(system, GRAPHS[graph](count))
    with ExitStack() as stack:
        client = stack.enter_context(cluster(NODES))
        session = _session(stack, system, client)
        began = time.monotonic()
        submitted = job.submit(client, session)
        if session is None:
            client.gather(submitted)
        else:
            submitted.result(timeout=300)
        took_s = time.monotonic() - began
    return {"status": "ok", "seconds": round(took_s, 3), "per_second": round(count / took_s, 1)}


def submission(system: str, count: int) -> dict[str, Any]:
    """Submit a layered graph, of which nothing but a gate runs meanwhile.

    ``returned_s`` is when the call returns, ``known_s`` when the scheduler has all of it.
    """
    graph = {key: args or ["gate"] for key, args in layered(count).items()}
    with ExitStack() as stack:
        client = stack.enter_context(cluster(NODES))
        gate = stack.enter_context(tempfile.NamedTemporaryFile(prefix="gate-"))
        job = Job(system, {"gate": [], **graph}, gate.name)
        session = _session(stack, system, client)
        began = time.monotonic()
        submitted = job.submit(client, session)
        returned_s = time.monotonic() - began
        while client.run_on_scheduler(_known) < job.size:
            time.sleep(0.05)
        known_s = time.monotonic() - began
        del submitted
    return {"status": "ok", "returned_s": round(returned_s, 3), "known_s": round(known_s, 3)}


def _known(dask_scheduler: Any) -> int:
    return len(dask_scheduler.tasks)


def compare(counts: Sequence[int], count: int, repeats: int) -> Session:
    """Measure both, taking turns.

    Parameters
    ----------
    counts
        How many functions are submitted, one size after the other.
    count
        How many are run.
    """
    session = Session("overheads")
    courses: list[tuple[str, str, dict[str, Any]]] = [
        ("running", system, {"graph": graph, "count": count})
        for graph in GRAPHS
        for _ in range(repeats)
        for system in ("dask", "handoff")
    ]
    courses += [
        ("submission", system, {"count": size})
        for size in counts
        for _ in range(repeats)
        for system in ("dask-plain", "dask", "handoff")
    ]
    for what, system, arguments in courses:
        row = in_process(f"benchmarks.overheads:{what}", 600, system=system, **arguments)
        row = {"what": what, "system": system, **arguments, **row}
        session.add(row)
        print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    return session
