"""How much is in the workers' memory at most, where consumers of large blocks need something scarce."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import dask
from dask.delayed import Delayed
from distributed import Client, Scheduler, SpecCluster, Worker

import handoff_dask as handoff
from benchmarks.turns import Session, in_process

#: Bytes of a block.
BLOCK = 10_000_000
THREADS = 4
LIMIT_S = 300
#: The second worker has no gpu.
NODES = ({"cpu": 4, "root": 1, "gpu": 1}, {"cpu": 4, "root": 1})
#: ``{system: whether tasks name resources, and what handoff does with them}``.
SYSTEMS: dict[str, tuple[bool, str | None]] = {
    "dask, no resources": (False, None),
    "dask": (True, None),
    "placed": (True, "place"),
}


def produce(number: int) -> bytearray:
    time.sleep(0.05)
    return bytearray(BLOCK)


def consume(*blocks: bytearray) -> int:
    time.sleep(0.1)
    return sum(map(len, blocks))


def _ask(named: bool, **resources: int) -> Any:
    return dask.annotate(**({"resources": resources} if named else {}))


def pipeline(count: int, named: bool) -> Delayed:
    """Each block is made on any core, and taken on the one gpu."""
    found = []
    for number in range(count):
        with _ask(named, cpu=1):
            block = dask.delayed(produce)(number)
        with _ask(named, gpu=1):
            found.append(dask.delayed(consume)(block))
    return dask.delayed(sum)(found)


def gated(count: int, named: bool) -> Delayed:
    """Each worker makes one block at a time; pairs are taken by what asks for nothing (distributed#6360)."""
    with _ask(named, root=1):
        roots = [dask.delayed(produce)(number) for number in range(count)]
    return dask.delayed(sum)([dask.delayed(consume)(*roots[n : n + 2]) for n in range(0, count, 2)])


SHAPES: dict[str, Callable[[int, bool], Delayed]] = {"pipeline": pipeline, "gated": gated}


def measure(system: str, shape: str, count: int) -> dict[str, Any]:
    """The most megabytes that Dask managed on all workers at once, and the seconds."""
    named, placing = SYSTEMS[system]
    spec = {
        n: {"cls": Worker, "options": {"nthreads": THREADS, "resources": has, "memory_limit": "4 GB"}}
        for n, has in enumerate(NODES)
    }

    scheduler = {"cls": Scheduler, "options": {"dashboard": False, "host": "127.0.0.1"}}
    with SpecCluster(workers=spec, scheduler=scheduler, silence_logs=50) as local, Client(local) as client:
        client.wait_for_workers(len(NODES), timeout=60)
        if placing is not None:
            handoff.start(client, dask_tasks="place")
        workers, most, over = local.scheduler.workers, [0], threading.Event()

        def watch() -> None:
            while not over.wait(0.002):
                most[0] = max(most[0], sum(ws.nbytes for ws in list(workers.values())))

        watching = threading.Thread(target=watch)
        watching.start()
        began = time.monotonic()
        client.compute(SHAPES[shape](count, named), sync=True)
        seconds = time.monotonic() - began
        over.set()
        watching.join()
        if placing is not None:
            handoff.stop()
    return {"status": "ok", "megabytes": round(most[0] / 1e6), "seconds": round(seconds, 2)}


def compare(count: int, only: Iterable[str] = (), repeats: int = 1) -> Session:
    """Measure all systems in turn, each on a new cluster."""
    session, wanted = Session("memory"), set(only) or set(SHAPES)
    for shape in [name for name in SHAPES if name in wanted]:
        for system in list(SYSTEMS) * repeats:
            row: dict[str, Any] = {"system": system, "shape": shape, "count": count}
            row |= in_process("benchmarks.memory:measure", LIMIT_S, **row)
            session.add(row)
            told = (
                f"{row['megabytes']:6} MB {row['seconds']:6.1f} s" if row["status"] == "ok" else row["status"]
            )
            print(f"{shape:10} {system:20} {told}", flush=True)
    return session
