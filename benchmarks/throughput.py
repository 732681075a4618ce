"""Functions that do nothing, several runs in a row on one cluster: the slowest counts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from fnmatch import fnmatchcase
from typing import Any

from distributed import Client, LocalCluster, wait

import handoff_dask as handoff
from benchmarks.cluster import cluster
from benchmarks.overheads import NODES, Graph, Job, independent, layered
from benchmarks.turns import Session, in_process

#: How many functions a run has.
COUNTS = (3_000, 10_000)
#: Chains side by side: one for each thread.
CHAINS = 8
#: Seconds after which a series is given up.
LIMIT_S = 600


def chains(count: int) -> Graph:
    """Chains of functions, each of which takes the result of the one before."""
    return {f"f-{n:06d}": [f"f-{n - CHAINS:06d}"] if n >= CHAINS else [] for n in range(count)}


GRAPHS: dict[str, Callable[[int], Graph]] = {"independent": independent, "layered": layered, "chains": chains}


@contextmanager
def _local() -> Iterator[Client]:
    """A cluster whose scheduler shares a process, and its interpreter's lock, with the client."""
    resources = dict(next(iter(NODES.values())))
    with (
        LocalCluster(
            n_workers=len(NODES),
            threads_per_worker=2,
            resources=resources,
            dashboard_address=None,
            memory_limit=0,
        ) as local,
        Client(local) as client,
    ):
        client.wait_for_workers(len(NODES), timeout=60)
        yield client


#: Where scheduler and client run.
CLUSTERS: dict[str, Callable[[], AbstractContextManager[Client]]] = {
    "LocalCluster": _local,
    "processes": lambda: cluster(NODES),
}


def series(system: str, where: str, graph: str, count: int, runs: int) -> dict[str, Any]:
    """So many runs in a row on one cluster; seconds of each, from the submission to the last result."""
    seconds = []
    with ExitStack() as stack:
        client = stack.enter_context(CLUSTERS[where]())
        session = stack.enter_context(handoff.Handoff(client)) if system == "handoff" else None
        for run in range(runs):
            named = {f"r{run}-{k}": [f"r{run}-{a}" for a in args] for k, args in GRAPHS[graph](count).items()}
            job = Job(system, named)
            began = time.monotonic()
            submitted = job.submit(client, session)
            wait(submitted if session is None else list(submitted.futures.values()))
            seconds.append(round(time.monotonic() - began, 3))
            del submitted, job
    return {"status": "ok", "seconds": seconds}


def compare(counts: Sequence[int], runs: int, only: Iterable[str] = (), repeats: int = 1) -> Session:
    """Measure both systems, one series of runs after the other, on each kind of cluster.

    Parameters
    ----------
    counts
        How many functions a run has, one size after the other.
    runs
        Runs of a series.
    only
        Names or patterns of graphs and of kinds of clusters; all if none is given.
    repeats
        Series of each system, in turns, each on a new cluster.
    """
    session = Session("throughput")
    words = list(only)
    for where in _wanted(CLUSTERS, words):
        for graph in _wanted(GRAPHS, words):
            for count in counts:
                for system in ("dask", "handoff") * repeats:
                    row: dict[str, Any] = {"system": system, "where": where, "graph": graph, "count": count}
                    row |= in_process("benchmarks.throughput:series", LIMIT_S, **row, runs=runs)
                    print(_line(session.add(row)), flush=True)
    return session


def _wanted(names: Iterable[str], words: Sequence[str]) -> list[str]:
    every = list(names)
    return [name for name in every if any(fnmatchcase(name, word) for word in words)] or every


def _line(row: dict[str, Any]) -> str:
    told = " ".join(f"{s:.2f}" for s in row["seconds"]) if row["status"] == "ok" else row["status"]
    return (
        f"{row['where']:13} {row['count']:6} {row['graph']:12} {row['system']:8} {told}  load {row['load']}"
    )
