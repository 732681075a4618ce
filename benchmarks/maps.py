"""Maps whose lists are known only on a node: ``task.expand`` beside ``Client.map`` inside a function.

Run it with ``python -m benchmarks maps``.  Both read a list on a node, call one small function for each
of its elements, and add up the results.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median

from distributed import Client, worker_client

import handoff_dask as handoff
from benchmarks.cluster import cluster

NODES = {name: {"cpu": 4, "memory": 4000} for name in ("a", "b")}
ITEMS = (1_000, 10_000)
RUNS = 3


def listing(count: int) -> list[int]:
    """What is known only when it has run."""
    return list(range(count))


def increment(number: int) -> int:
    """The function of each element."""
    return number + 1


def nested(count: int) -> int:
    """The same map by hand, in a function that waits for it."""
    with worker_client() as client:
        return sum(client.gather(client.map(increment, listing(count), pure=False)))


def by_expand(client: Client, count: int) -> int:
    """In Handoff's words."""
    with handoff.DAG() as dag:
        numbers = handoff.task(increment, cost={"cpu": 1}).expand(handoff.task(listing)(count))
        total = handoff.task(sum)(numbers)
    return int(handoff.execute(dag, client=client, outputs=[total])[total])


def by_worker_client(client: Client, count: int) -> int:
    """A function that submits, as Dask has it."""
    return int(client.submit(nested, count, pure=False).result())


SYSTEMS: dict[str, Callable[[Client, int], int]] = {
    "worker_client": by_worker_client,
    "expand": by_expand,
}


def measure(items: Sequence[int] = ITEMS, runs: int = RUNS) -> list[tuple[str, int, list[float]]]:
    """``(system, items, seconds of each run)``; the systems take turns on one cluster."""
    found = []
    with cluster(NODES) as client:
        handoff.start(client)
        for system in SYSTEMS.values():
            system(client, 10)
        for count in items:
            took: dict[str, list[float]] = {name: [] for name in SYSTEMS}
            for _ in range(runs):
                for name, system in SYSTEMS.items():
                    began = time.perf_counter()
                    assert system(client, count) == count * (count + 1) // 2
                    took[name].append(time.perf_counter() - began)
            found += [(name, count, seconds) for name, seconds in took.items()]
        handoff.stop()
    return found


def compare(quick: bool = False) -> str:
    """A line for each system and number of items."""
    found = measure(ITEMS[:1], 1) if quick else measure()
    return "\n".join(
        f"{name:14} {count:7,} items  {median(seconds):6.2f} s  ({', '.join(f'{s:.2f}' for s in seconds)})"
        for name, count, seconds in found
    )
