"""A pipeline beside the nearest things: the same chain by execute, actors, streamz and submit."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import Any

import numpy as np
from distributed import Client

import handoff_dask as handoff
from benchmarks.cluster import cluster

NODES = {name: {"cpu": 2, "memory": 4000} for name in ("a", "b", "c")}
STAGES = (1, 3, 6)
#: Items of each run, by system: so many that it takes some seconds.
TINY = {"stream": 20_000, "execute": 100, "actors": 500, "streamz": 500}
#: Bytes of a large item, and how many of them.
LARGE, COUNT = 10_000_000, 60
#: Items that are under way at the same time, in all systems.
WINDOW = 30


def add(value: Any) -> Any:
    """The code of every stage."""
    return value + 1


class Adder:
    """The same as an actor."""

    def add(self, value: Any) -> Any:
        """One more."""
        return value + 1


def dag_of(stages: int) -> handoff.DAG:
    """A chain; stages take turns on the nodes, as those of the others do."""
    dag = handoff.DAG(f"chain-{stages}").add_function(handoff.Function("s0", [], None, type="input"))
    for n in range(stages):
        node = list(NODES)[n % len(NODES)]
        dag.add_function(handoff.Function(f"s{n + 1}", [f"s{n}"], add, node=node))
    return dag


def by_stream(client: Client, stages: int, values: Sequence[Any]) -> Iterator[Any]:
    with handoff.stream(dag_of(stages), client=client, max_in_flight=WINDOW * stages) as pipeline:
        yield from pipeline.map(values[:1])  # it is warm
        yield None
        yield from pipeline.map(values)


def by_execute(client: Client, stages: int, values: Sequence[Any]) -> Iterator[Any]:
    dag = dag_of(stages)
    yield None
    for value in values:
        yield handoff.execute(dag, inputs={"s0": value}, outputs=[f"s{stages}"], client=client)[f"s{stages}"]


def by_actors(client: Client, stages: int, values: Sequence[Any]) -> Iterator[Any]:
    names = list(NODES)
    actors = [
        client.submit(Adder, actor=True, workers=[names[n % len(names)]], pure=False).result()
        for n in range(stages)
    ]
    yield None
    for value in values:  # the client is between any two: an actor's result comes to it
        for actor in actors:
            value = actor.add(value).result()
        yield value


def by_streamz(client: Client, stages: int, values: Sequence[Any]) -> Iterator[Any]:
    from streamz import Stream

    source = Stream()
    node = source.scatter()
    for _ in range(stages):
        node = node.map(add)
    results: list[Any] = []
    node.buffer(WINDOW).gather().sink(results.append)
    yield None
    for value in values:
        source.emit(value)
    while len(results) < len(values):
        time.sleep(0.001)
    yield from results


def by_submit(client: Client, stages: int, values: Sequence[Any]) -> Iterator[Any]:
    names = list(NODES)
    under_way: deque[Any] = deque()
    yield None
    for value in values:
        future = client.scatter(value, direct=True, hash=False)
        for n in range(stages):
            future = client.submit(add, future, workers=[names[n % len(names)]], pure=False)
        under_way.append(future)
        if len(under_way) == WINDOW:
            yield client.gather(under_way.popleft(), direct=True)
    while under_way:
        yield client.gather(under_way.popleft(), direct=True)


SYSTEMS: dict[str, Callable[[Client, int, Sequence[Any]], Iterator[Any]]] = {
    "stream": by_stream,
    "execute": by_execute,
    "actors": by_actors,
    "streamz": by_streamz,
    "submit": by_submit,
}


def rate(client: Client, system: str, stages: int, values: Sequence[Any]) -> float:
    """Items per second, from the first push to the last result; what is there before is not counted."""
    going = SYSTEMS[system](client, stages, values)
    while next(going) is not None:
        pass
    began = time.perf_counter()
    count = 0
    for result in going:
        assert np.all(result == values[count] + stages)
        count += 1
    took = time.perf_counter() - began
    assert count == len(values)
    return count / took


def latency(client: Client, stages: int, per_second: float, seconds: float = 2.0) -> float:
    """Median seconds from push to result, while items come at this rate; results are taken as they come."""
    with handoff.stream(dag_of(stages), client=client, max_in_flight=10_000) as pipeline:
        list(pipeline.map(range(100)))
        pushed: list[float] = []
        took: list[float] = []

        def take() -> None:
            for number, _ in enumerate(pipeline):
                took.append(time.perf_counter() - pushed[number])

        taker = threading.Thread(target=take)
        taker.start()
        start = time.perf_counter()
        for n in range(max(100, int(seconds * per_second))):
            wait_s = start + n / per_second - time.perf_counter()
            if wait_s > 0:
                time.sleep(wait_s)
            pushed.append(time.perf_counter())
            pipeline.push(n)
        pipeline.close()
        taker.join()
        return median(took)


def compare(quick: bool = False) -> str:
    """All systems, and a table of what they did."""
    lines = ["| | stages | items/s | of execute | of streamz |", "|---|---|---|---|---|"]
    share = 10 if quick else 1
    with cluster(NODES) as client:
        for stages in STAGES[1:2] if quick else STAGES:
            rates = {s: rate(client, s, stages, list(range(n // share))) for s, n in TINY.items()}
            for system, value in rates.items():
                beside = [f"{value / rates[other]:.1f}" for other in ("execute", "streamz")]
                lines.append(f"| tiny items: {system} | {stages} | {value:,.0f} | {' | '.join(beside)} |")
            half = latency(client, stages, rates["stream"] / 2)
            lines.append(f"| tiny items: stream, latency at half load | {stages} | {1e3 * half:.1f} ms | | |")
        arrays = [np.full(LARGE // 8, float(n)) for n in range(COUNT // share)]
        for stages in STAGES[1:2]:
            for system in ("submit", "stream"):
                value = rate(client, system, stages, arrays) * LARGE / 1e6
                lines.append(f"| 10 MB arrays: {system} | {stages} | {value:,.0f} MB/s | | |")
    load = os.getloadavg()[0]
    return "\n".join([*lines, "", f"{os.cpu_count()} cores; load average at the end {load:.1f}"])
