"""Records of executions that never were, as a simple list scheduler would have run them."""

from __future__ import annotations

import heapq
import random
from collections import defaultdict
from collections.abc import Hashable
from dataclasses import replace
from functools import cache

from handoff_dask.record.execution import ExecutionRecord, FunctionRecord

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

#: What lies between a function's placement and its start, in seconds.
LATENCY_S = 0.004

#: Ids made to break out of whatever they are written into.
HOSTILE = (
    "<script>alert(1)</script>",
    "</script><script>alert(2)</script>",
    "<!-- <script>",
    "a\"b'c",
    "line\nbreak\r\ttab",
    "trailing\\",
    "\\N \\G \\l {a|b} <p>",
    "<b>html label</b>",
    "&lt;&amp;&#60;",
    "]]> --> */ //",
    "\x00\x07\x1b\ufffe",
    "\ud800 lone",
    "\u202egnp.exe",
    "çžß 漢字 🎈",
    "x" * 10_000,
    "",
    "legend",
    "graph { a -> b }",
    1,
    "1",
    ("tuple", 1, None),
    None,
    2.5,
    frozenset(["<i>"]),
    "__proto__",
    "constructor",
)


def function(key: Hashable, **fields: object) -> FunctionRecord:
    """A finished function that ran for a second."""
    known = {"name": "work", "status": "finished", "node": "a", "start": 1.0, "stop": 2.0, "attempts": 1}
    return FunctionRecord(id=key, **{**known, **fields})


def record(*functions: FunctionRecord, **fields: object) -> ExecutionRecord:
    """A finished execution of these functions."""
    return ExecutionRecord(**{"dag_id": "dag", "status": "finished", "functions": functions, **fields})


def hostile() -> ExecutionRecord:
    """An execution in which every text that a user may choose is hostile."""
    functions = tuple(
        function(
            i,
            name=str(i)[:200],
            node=text,
            args=HOSTILE[:k][-2:],
            cost={"cpu": 1, text or "x": "y", "label<": text},
            cause=text[:50],
            error=f"Traceback {text}\n  {text}",
            status="failed" if k % 2 else "finished",
        )
        for k, i in enumerate(HOSTILE)
        for text in [i if isinstance(i, str) else repr(i)]
    )
    nodes = {f.node: {"cpu": 2, "<i>": "</script>"} for f in functions if f.node is not None}
    return record(*functions, dag_id="</title><script>alert(3)</script>", nodes=nodes, strategy="<b>s</b>")


def pipeline(size: int, seed: int = 0) -> list[FunctionRecord]:
    """About ``size`` functions: load many, clean and fit each, merge in a tree, one report."""
    rng = random.Random(seed)
    functions = [
        FunctionRecord(id="settings", name="input", type="input", status="none"),
        FunctionRecord(id="parse", name="parse", type="inline", args=("settings",), status="none"),
    ]

    def add(key: Hashable, name: str, args: tuple[Hashable, ...], seconds: float, **cost: float) -> Hashable:
        functions.append(FunctionRecord(id=key, name=name, args=args, cost=cost, duration_s=seconds))
        return key

    level = []
    for i in range(max(1, round((size - 3) * 0.3))):
        gpu = {"gpu": 1} if i % 5 == 0 else {}
        load = add(f"load-{i}", "load", ("parse",), rng.uniform(0.2, 0.6), cpu=1, memory=900)
        clean = add(f"clean-{i}", "clean", (load,), rng.uniform(0.4, 1.4), cpu=1, memory=2500)
        level.append(add(("fit", i), "fit", (clean,), rng.uniform(1.1, 3.3), cpu=2, memory=6000, **gpu))
    while len(level) > 1:
        level = [
            add(f"merge-{len(functions)}", "merge", tuple(level[k : k + 4]), 0.3, cpu=0.5)
            for k in range(0, len(level), 4)
        ]
    add("report", "report", (*level, "settings"), 0.5, cpu=1)
    return functions


@cache
def sample(size: int, seed: int = 0) -> ExecutionRecord:
    """An execution of about ``size`` functions on six unlike nodes."""
    return _Cluster(pipeline(size, seed)).run()


#: What a function takes: pairs of a name and an amount.
Shape = tuple[tuple[str, float], ...]


def shape_of(f: FunctionRecord) -> Shape:
    return tuple({**f.cost, "threads": 1}.items())


class _Cluster:
    """Runs functions in the order given, each as soon as a node has room."""

    def __init__(self, functions: list[FunctionRecord]) -> None:
        self.functions = {f.id: f for f in functions}
        self.order = {f.id: number for number, f in enumerate(functions)}
        self.missing = {f.id: len(f.args) for f in functions}
        self.consumers: dict[Hashable, list[Hashable]] = defaultdict(list)
        for f in functions:
            for arg in f.args:
                self.consumers[arg].append(f.id)
        self.free = {node: dict(has) for node, has in NODES.items()}
        self.ready: dict[Shape, list[tuple[int, Hashable]]] = defaultdict(list)
        self.running: list[tuple[float, int, Hashable]] = []
        self.now = SUBMITTED

    def run(self) -> ExecutionRecord:
        for f in list(self.functions.values()):
            if not f.args:
                self.finish(f.id) if f.type != "regular" else self.arrive(f.id)
        while self.ready or self.running:
            self.place()
            self.now, _, key = heapq.heappop(self.running)
            f = self.functions[key]
            for name, amount in shape_of(f):
                self.free[f.node][name] += amount
            self.finish(key)
        functions = tuple(self.functions.values())
        ended = self.now + LATENCY_S
        return record(*functions, dag_id="pipeline", nodes=NODES, submitted=SUBMITTED, ended=ended)

    def arrive(self, key: Hashable) -> None:
        self.functions[key] = replace(self.functions[key], ready=self.now)
        heapq.heappush(self.ready[shape_of(self.functions[key])], (self.order[key], key))

    def finish(self, key: Hashable) -> None:
        for consumer in self.consumers[key]:
            self.missing[consumer] -= 1
            if not self.missing[consumer]:
                inline = self.functions[consumer].type == "inline"
                self.finish(consumer) if inline else self.arrive(consumer)

    def place(self) -> None:
        refused: set[Shape] = set()
        while heads := [(heap[0], shape) for shape, heap in self.ready.items() if shape not in refused]:
            (number, key), shape = min(heads)
            fits = self.fitting(shape)
            if not fits:
                refused.add(shape)
                continue
            heapq.heappop(self.ready[shape])
            if not self.ready[shape]:
                del self.ready[shape]
            node = min(fits, key=lambda n: ("gpu" in NODES[n], -self.free[n]["cpu"], n))
            for name, amount in shape:
                self.free[node][name] -= amount
            self.start(self.functions[key], node, number)

    def fitting(self, shape: Shape) -> list[str]:
        return [n for n, has in self.free.items() if all(has.get(r, 0) >= v for r, v in shape)]

    def start(self, f: FunctionRecord, node: str, number: int) -> None:
        start = self.now + LATENCY_S
        stop = start + (f.duration_s or 0.0)
        self.functions[f.id] = replace(
            f,
            status="finished",
            node=node,
            placed=self.now,
            start=start,
            stop=stop,
            attempts=1,
            cause="room" if self.now > (f.ready or 0.0) else "",
            nbytes=1000 * (number + 1),
        )
        heapq.heappush(self.running, (stop, number, f.id))
