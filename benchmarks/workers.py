"""Many workers in one process, whose event loop is then busy: what a slow round trip costs.

Functions sleep, in chains, one for each worker.  What is looked at is the time between the end of a
function and the start of the next one on the same worker.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from typing import Any

import dask
from dask._task_spec import Task as DaskTask
from dask._task_spec import TaskRef
from distributed import Client, Scheduler, Worker, get_worker, wait

import handoff_dask as handoff
from benchmarks.turns import Session, in_process

WORKERS = (2, 40, 100, 300)
#: How long each function takes.
NAP_S = 0.5
#: Seconds after which a course is given up.
LIMIT_S = 300

_spans: dict[str, list[tuple[float, float]]] = {}
_lock = threading.Lock()


def nap(*args: Any) -> None:
    """Sleep, and note when, by the worker."""
    start = time.monotonic()
    time.sleep(NAP_S)
    with _lock:
        _spans.setdefault(str(get_worker().name), []).append((start, time.monotonic()))


class LateScheduler(Scheduler):
    """A scheduler whose messages arrive later: so much longer is each round trip."""

    late_s = 0.0

    def send_all(self, *messages: Any) -> None:
        """Send some time from now."""
        self._later(super().send_all, *messages)

    def worker_send(self, *message: Any) -> None:
        """Send some time from now."""
        self._later(super().worker_send, *message)

    def _later(self, send: Any, *messages: Any) -> None:
        if self.late_s:
            # Calls of one delay are made in the order in which they were asked for.
            self.loop.call_later(self.late_s, send, *messages)
        else:
            send(*messages)


def course(system: str, workers: int, functions: int, late_s: float) -> dict[str, Any]:
    """Run chains of functions on so many workers, all in this process."""
    logging.disable(logging.CRITICAL)
    seconds = asyncio.run(_course(system, workers, functions, late_s))
    return {"status": "ok", "seconds": round(seconds, 2), "idle": round(idle_share(_spans), 4)}


def idle_share(spans: dict[str, list[tuple[float, float]]]) -> float:
    """The share of the time from each worker's first start to its last end in which nothing ran there.

    Examples
    --------
    >>> idle_share({"a": [(0.0, 1.0), (2.0, 3.0)], "b": [(0.0, 1.0)]})
    0.25
    """
    there = sum(max(stop for _, stop in each) - min(start for start, _ in each) for each in spans.values())
    busy = sum(stop - start for each in spans.values() for start, stop in each)
    return 1 - busy / there


async def _course(system: str, workers: int, functions: int, late_s: float) -> float:
    LateScheduler.late_s = late_s
    args = {f"f-{n}": [f"f-{n - workers}"] if n >= workers else [] for n in range(functions)}
    async with LateScheduler(dashboard_address=None, host="127.0.0.1", port=0) as scheduler:
        told: dict[str, Any] = {"nthreads": 1, "resources": {"cpu": 1}, "memory_limit": 0, "dashboard": False}
        started = [
            Worker(scheduler.address, name=f"w{n:03d}", host="127.0.0.1", **told) for n in range(workers)
        ]
        await asyncio.gather(*started)
        async with Client(scheduler.address, asynchronous=True) as client:
            took_s = await (_run_dask if system == "dask" else _run_handoff)(client, args)
        await asyncio.gather(*[worker.close() for worker in started])
    return took_s


async def _run_dask(client: Client, args: dict[str, list[str]]) -> float:
    graph = {key: DaskTask(key, nap, *map(TaskRef, taken)) for key, taken in args.items()}
    began = time.monotonic()
    with dask.annotate(resources={"cpu": 1}):  # type: ignore[attr-defined]
        futures = client.get(graph, list(graph), sync=False)
    await wait(futures)
    return time.monotonic() - began


async def _run_handoff(client: Client, args: dict[str, list[str]]) -> float:
    dag = handoff.DAG()
    for key, taken in args.items():
        dag.add_function(handoff.Function(key, taken, nap, cost={"cpu": 1}))
    async with handoff.Handoff(client) as session:
        began = time.monotonic()
        await session.execute(dag, timeout=LIMIT_S)
        return time.monotonic() - began


def compare(each: int, repeats: int, late_s: float = 0.0) -> Session:
    """Measure both systems in turn, with few and with many workers.

    Parameters
    ----------
    each
        Functions for each worker.
    repeats
        How often each runs.
    late_s
        Seconds by which the scheduler's messages are delayed.
    """
    session = Session("workers")
    for workers in WORKERS:
        for repeat in range(repeats):
            for system in ("dask", "handoff"):
                asked: dict[str, Any] = {"system": system, "workers": workers, "functions": each * workers}
                asked["late_s"] = late_s
                row = {**asked, "repeat": repeat, "ideal_s": each * NAP_S}
                row |= in_process("benchmarks.workers:course", LIMIT_S, **asked)
                print(_line(session.add(row)), flush=True)
    return session


def _line(row: dict[str, Any]) -> str:
    told = f"{row['seconds']:.1f} s, idle {row['idle']:.1%}" if row["status"] == "ok" else row["status"]
    what = f"{row['workers']:4} workers {row['system']:8} ideal {row['ideal_s']:.1f} s"
    return f"{what}: {told}, load {row['load']}"
