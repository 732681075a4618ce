"""The engine alone: events in, decisions out; microseconds per function, bytes per waiting function.

    python -m benchmarks engine

A figure is processor time of this thread, so a busy machine spoils it less than it would a clock.
It covers a function's whole life in the engine: it gets ready, is placed, and ends.
"""

from __future__ import annotations

import gc
import random
import statistics
import tracemalloc
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from time import thread_time

from benchmarks.machine import describe
from handoff_dask.placement.decisions import Decision, Place
from handoff_dask.placement.engine import PlacementEngine
from handoff_dask.placement.events import (
    DataArgument,
    Demand,
    Event,
    FunctionFinished,
    FunctionReady,
    NodeJoined,
    RunOpened,
)
from handoff_dask.placement.strategies import BUILT_IN
from handoff_dask.resources import Capabilities, Cost

#: Functions that are timed, and seconds on the engine's clock between two.
STEPS, STEP_S = 2000, 0.01


@dataclass(frozen=True)
class Case:
    """A state of the cluster, in which one function after another comes and goes."""

    name: str
    nodes: int
    costs: int
    #: Functions that wait, or 0: half of the nodes' room is free.
    waiting: int
    cpu: int = 4
    strategies: Sequence[str] = ("first_available",)
    #: Each takes three arguments from somewhere, and is short.
    short: bool = False
    #: Each takes a result of some megabytes that a node has, and one that many take.
    data: bool = False


CASES = (
    Case("8 nodes, 10,000 wait, 1 cost", 8, 1, 10_000),
    Case("8 nodes, 10,000 wait, 100 costs", 8, 100, 10_000),
    Case("8 nodes, 10,000 short ones wait, 1 cost", 8, 1, 10_000, short=True),
    Case("8 nodes, 10,000 with large arguments wait, 1 cost", 8, 1, 10_000, data=True),
    Case("1,000 nodes, 10,000 with large arguments wait, 1 cost", 1000, 1, 10_000, data=True),
    Case("1,000 nodes, 10,000 wait, 100 costs", 1000, 100, 10_000),
    Case("1,000 nodes half full, 100 costs", 1000, 100, 0, cpu=16, strategies=tuple(BUILT_IN)),
)


class Cluster:
    """An engine that has been told of nodes and a run, and the functions that come and go."""

    def __init__(self, case: Case, strategy: str) -> None:
        self.rng = random.Random(1)
        self.case = case
        self.engine = PlacementEngine()
        self.now = 0.0
        capabilities = Capabilities.parse({"cpu": case.cpu, "memory": 16_000})
        for n in range(case.nodes):
            node = NodeJoined(node=f"n{n:04}", capabilities=capabilities, threads=2 * case.cpu)
            self.engine.handle(node, now=0)
        self.engine.handle(RunOpened(run="run", strategy=BUILT_IN[strategy]), now=0)
        cpus = [1.0] if case.costs == 1 else [0.5, 1, 1, 2, 3]
        costs = [{"cpu": self.rng.choice(cpus), "memory": 100 + 10 * n} for n in range(case.costs)]
        self.demands = [Demand(Cost.parse(cost)) for cost in costs]
        self.placed: list[Hashable] = []
        self.number = 0

    def ready(self) -> FunctionReady:
        self.number += 1
        home = f"n{self.rng.randrange(self.case.nodes):04}" if self.case.short else None
        return FunctionReady(
            function=self.number,
            run="run",
            demand=self.rng.choice(self.demands),
            rank=self.rng.random(),
            duration_s=0.001 if self.case.short else 0.1 if self.case.data else None,
            preferred_node=home,
            arguments=self.arguments() if self.case.data else (),
        )

    def arguments(self) -> tuple[DataArgument, ...]:
        """A result of its own on some node, and one that many take on three nodes."""
        rng, nodes = self.rng, self.case.nodes
        shared = rng.randrange(50)
        where = tuple(f"n{(shared + n) % nodes:04}" for n in range(3))
        own = DataArgument(("own", self.number), 20_000_000, (f"n{rng.randrange(nodes):04}",))
        return own, DataArgument(("shared", shared), 5_000_000, where)

    def fill(self) -> None:
        """Let so many get ready as the case says."""
        case = self.case
        count = case.waiting + 4 * case.nodes if case.waiting else case.nodes * case.cpu // 3
        for event in [self.ready() for _ in range(count)]:
            self.note(self.engine.handle(event, now=self.now))

    def note(self, decisions: Sequence[Decision]) -> None:
        self.placed += [d.function for d in decisions if isinstance(d, Place)]

    def step(self) -> float:
        """One function gets ready and another ends; the seconds that this took."""
        self.now += STEP_S
        at = 0 if self.case.short else self.rng.randrange(len(self.placed))
        self.placed[at], self.placed[-1] = self.placed[-1], self.placed[at]
        events: list[Event] = [self.ready(), FunctionFinished(function=self.placed.pop())]
        began = thread_time()
        decisions = [d for event in events for d in self.engine.handle(event, now=self.now)]
        took_s = thread_time() - began
        self.note(decisions)
        return took_s


def microseconds(case: Case, strategy: str) -> tuple[float, float]:
    """Median and mean per function."""
    cluster = Cluster(case, strategy)
    cluster.fill()
    for _ in range(STEPS // 4):
        cluster.step()
    gc.collect()
    times = [cluster.step() for _ in range(STEPS)]
    return statistics.median(times) * 1e6, statistics.mean(times) * 1e6


def bytes_per_waiting(count: int = 20_000) -> float:
    """What one more waiting function takes, its key and cost left out."""
    cluster = Cluster(CASES[1], "first_available")
    events = [cluster.ready() for _ in range(count)]
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    cluster.engine.handle_all(events, now=0)
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return (after - before) / cluster.engine.waiting


def table(tell: Callable[[str], None] = print) -> None:
    """Print as Markdown, row by row."""
    tell("| case | strategy | µs per function, median | mean |")
    tell("|---|---|--:|--:|")
    for case in CASES:
        for strategy in case.strategies:
            median, mean = microseconds(case, strategy)
            tell(f"| {case.name} | {strategy} | {median:.1f} | {mean:.1f} |")
    tell("")
    tell(f"{bytes_per_waiting():.0f} bytes per waiting function.")


def main(arguments: Sequence[str] = ()) -> None:
    """Say what it runs on, and print the table."""
    print("; ".join(f"{name} {value}" for name, value in describe().items()), end="\n\n")
    table()


if __name__ == "__main__":
    main()
