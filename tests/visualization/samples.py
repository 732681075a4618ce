"""Records of executions that never were, as a simple list scheduler would have run them."""

from __future__ import annotations

import heapq
import random
from collections import defaultdict
from dataclasses import replace

from handoff_dask.records import ExecutionRecord, FunctionRecord

#: Seconds since the epoch at which the executions are submitted.
SUBMITTED = 1_700_000_000.0

NODES = {
    "a0": {"cpu": 4, "memory": 16000, "threads": 4},
    "a1": {"cpu": 4, "memory": 16000, "threads": 4},
    "a2": {"cpu": 4, "memory": 16000, "threads": 4},
    "g0": {"cpu": 8, "memory": 64000, "gpu": 1, "threads": 8},
    "g1": {"cpu": 8, "memory": 64000, "gpu": 1, "threads": 8},
    "s0": {"cpu": 2, "memory": 8000, "threads": 4},
}

#: What lies between a finished function and one that it lets start, in seconds.
LATENCY_S = 0.004


def pipeline(size: int, seed: int = 0) -> list[FunctionRecord]:
    """About ``size`` functions: load many, clean and fit each, merge in a tree, one report."""
    rng = random.Random(seed)
    functions = [FunctionRecord(id="settings", name="input", type="input", status="none")]
    functions.append(FunctionRecord(id="parse", name="parse", type="inline", args=("settings",), status="none"))
    level = []
    for i in range(max(1, round((size - 3) * 0.3))):
        shape = (("load", 1, 900, 0.4), ("clean", 1, 2500, 0.9), ("fit", 2, 6000, 2.2))
        previous: object = "parse"
        for name, cpu, memory, mean in shape:
            cost: dict[str, float] = {"cpu": cpu, "memory": memory}
            if name == "fit" and i % 5 == 0:
                cost["gpu"] = 1
            ident = (name, i) if name == "fit" else f"{name}-{i}"
            duration = rng.uniform(0.5, 1.5) * mean
            functions.append(
                FunctionRecord(id=ident, name=name, args=(previous,), cost=cost, duration_s=duration)
            )
            previous = ident
        level.append(previous)
    number = 0
    while len(level) > 1:
        above: list[object] = []
        for k in range(0, len(level), 4):
            ident = f"merge-{number}"
            number += 1
            functions.append(
                FunctionRecord(id=ident, name="merge", args=tuple(level[k : k + 4]), cost={"cpu": 0.5}, duration_s=0.3)
            )
            above.append(ident)
        level = above
    functions.append(FunctionRecord(id="report", name="report", args=(*level, "settings"), cost={"cpu": 1}, duration_s=0.5))
    return functions


def executed(
    functions: list[FunctionRecord], nodes: dict[str, dict[str, float]] | None = None, dag_id: object = "pipeline"
) -> ExecutionRecord:
    """The record of these functions (in topological order) on these nodes."""
    nodes = NODES if nodes is None else nodes
    known = {f.id: f for f in functions}
    consumers, missing = defaultdict(list), {}
    for f in functions:
        missing[f.id] = len(set(f.args))
        for arg in set(f.args):
            consumers[arg].append(f.id)
    free = {node: dict(caps) for node, caps in nodes.items()}
    order = {f.id: number for number, f in enumerate(functions)}
    done: dict[object, FunctionRecord] = {}
    ready: list[tuple[int, object]] = []
    arrived: dict[object, float] = {}

    def release(ident: object, now: float) -> None:
        ahead = [ident]
        while ahead:
            i = ahead.pop()
            if known[i].type == "regular" and i not in done:
                arrived[i] = now
                heapq.heappush(ready, (order[i], i))
                continue
            for c in consumers[i]:
                missing[c] -= 1
                if not missing[c]:
                    ahead.append(c)

    now = SUBMITTED
    for f in functions:
        if f.type != "regular":
            done[f.id] = f
    for f in functions:
        if not f.args:
            release(f.id, now)
    running: list[tuple[float, int, object]] = []
    while ready or running:
        later = []
        refused = set()  # costs that fit nowhere now
        for place, i in ready:
            f = known[i]
            cost = {**f.cost, "threads": 1}
            shape = tuple(cost.items())
            if shape in refused:
                later.append((place, i))
                continue
            fits = [n for n, have in free.items() if all(have.get(r, 0) >= v for r, v in cost.items())]
            if not fits:
                refused.add(shape)
                later.append((place, i))
                continue
            node = min(fits, key=lambda n: ("gpu" in nodes[n], -free[n]["cpu"], n))
            for r, v in cost.items():
                free[node][r] -= v
            start = now + LATENCY_S
            stop = start + (f.duration_s or 0.0)
            waited = now > arrived[i]
            thread = all(f2.get("threads", 0) < 1 for f2 in free.values())
            cause = ("thread" if thread else "room") if waited else ""
            done[i] = replace(
                f, status="finished", node=node, ready=arrived[i], placed=now, start=start, stop=stop,
                attempts=1, cause=cause, nbytes=1000 * (place + 1),
            )
            heapq.heappush(running, (stop, place, i))
        ready = later
        heapq.heapify(ready)
        if not running:
            raise AssertionError("some function fits nowhere")
        now, place, i = heapq.heappop(running)
        f = done[i]
        for r, v in {**f.cost, "threads": 1}.items():
            free[f.node][r] += v
        release(i, now)
    return ExecutionRecord(
        dag_id=dag_id,
        status="finished",
        functions=tuple(done[f.id] for f in functions),
        nodes=nodes,
        submitted=SUBMITTED,
        ended=now + LATENCY_S,
    )


def sample(size: int, seed: int = 0) -> ExecutionRecord:
    """An execution of about ``size`` functions."""
    return executed(pipeline(size, seed))
