"""Large results on a virtual clock: bytes moved and makespans, beside a simple model of stock Dask.

    python -m benchmarks.data_simulated

Four nodes of two cores, links of 1 Gbit/s, a round trip of 5 ms; then the same with one link at a tenth.
*Blind* is the engine without knowledge of data.  *Learned*: as on a cluster, durations vary (by up to a
third, evenly) and nobody knows them before the first functions have ended.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from heapq import heappop, heappush
from itertools import count

from benchmarks.data_shapes import SHAPES, Step
from handoff_dask.placement.engine import PlacementEngine
from handoff_dask.placement.settings import DEFAULT_SETTINGS
from handoff_dask.placement.strategies import BUILT_IN, FIRST_AVAILABLE
from handoff_dask.resources import Capabilities, Cost
from handoff_dask.simulation import SimulatedFunction, SimulatedNetwork, SimulatedNode, simulate
from handoff_dask.simulation.running import settings_for
from handoff_dask.simulation.transfers import Transfers

NODES = tuple(SimulatedNode(f"n{n}", Capabilities.parse({"cpu": 2}), threads=2) for n in range(1, 5))
ROUND_TRIP_S = 0.005
#: The network of the measurements, and one with a slow host.
NETWORKS = {
    "1 Gbit/s": SimulatedNetwork(125e6),
    "one host at 100 Mbit/s": SimulatedNetwork(125e6, slow={"n4": 12.5e6}),
}


def functions_of(steps: Sequence[Step]) -> list[SimulatedFunction]:
    """A shape for the simulation."""
    costs = {cpu: Cost.parse({"cpu": cpu}) for cpu in (1, 2)}
    return [
        SimulatedFunction(s.id, s.seconds, costs[s.cpu], s.args, nbytes=int(s.megabytes * 1e6)) for s in steps
    ]


def varied(name: str, seed: int) -> list[Step]:
    """A shape whose functions take up to a third longer, each in its own measure."""
    rng = random.Random(seed)
    return [step._replace(seconds=step.seconds * (1 + rng.random() / 3) + 0.01) for step in SHAPES[name]()]


def outcome(
    name: str,
    strategy: str,
    network: SimulatedNetwork,
    *,
    blind: bool = False,
    learned: int | None = None,
) -> tuple[float, int]:
    """Makespan in seconds, and bytes moved; with a seed, of a varied shape whose durations are learned."""
    settings = settings_for(ROUND_TRIP_S)
    if blind:
        settings = replace(settings, transfer_floor_s=float("inf"))
    steps = list(SHAPES[name]()) if learned is None else varied(name, learned)
    if learned is not None:
        # As on a cluster.
        settings = replace(settings, round_trip_s=DEFAULT_SETTINGS.round_trip_s, timed_prefetches=28)
    run = simulate(
        functions_of(steps),
        NODES,
        BUILT_IN[strategy],
        overhead_s=ROUND_TRIP_S,
        network=network,
        durations_learned=learned is not None,
        engine=PlacementEngine(settings),
        idleness=False,
    )
    return run.makespan_s, run.bytes_moved


class StockDask:
    """A task goes to a worker as soon as it is ready, and waits there; arguments move meanwhile.

    Of the workers that have an argument (all, if it takes none) the one is taken where what waits, and
    moving the arguments, takes least: ``distributed.scheduler.SchedulerState.worker_objective``.  A worker
    starts tasks in the order of ``dask.order`` as long as there are cores.  Nothing is stolen, as
    with ``resources=``.
    """

    def __init__(self, steps: Sequence[Step], network: SimulatedNetwork) -> None:
        from dask.order import order

        self.steps = {step.id: step for step in steps}
        self.place = order({step.id: (len, *step.args) for step in steps})
        self.network, self.transfers = network, Transfers(network)
        self.missing = {step.id: len(set(step.args)) for step in steps}
        self.takers: dict[str, list[str]] = {step.id: [] for step in steps}
        for step in steps:
            for arg in dict.fromkeys(step.args):
                self.takers[arg].append(step.id)
        self.copies: dict[str, dict[str, None]] = {}
        names = [node.name for node in NODES]
        self.occupancy = dict.fromkeys(names, 0.0)
        self.free = dict.fromkeys(names, 2)
        self.fetching: dict[str, dict[str, set[str]]] = {name: {} for name in names}
        self.ready: dict[str, list[tuple[int, str]]] = {name: [] for name in names}
        self.ends: list[tuple[float, int, str, str]] = []
        self.number = count()
        self.now = 0.0

    def run(self) -> tuple[float, int]:
        """Makespan in seconds, and bytes moved."""
        for name, missing in sorted(self.missing.items(), key=lambda item: self.place[item[0]]):
            if not missing:
                self.assign(name)
        while self.ends or self.transfers.next_s() < float("inf"):
            self.now = min(self.ends[0][0] if self.ends else float("inf"), self.transfers.next_s())
            for datum, node in self.transfers.arrived(self.now):
                self.arrived(str(datum), node)
            while self.ends and self.ends[0][0] <= self.now:
                self.ended(*heappop(self.ends)[2:])
        return self.now, self.transfers.moved

    def moved(self, step: Step, node: str) -> int:
        """Bytes of a task's arguments that a worker does not have."""
        missing = (arg for arg in dict.fromkeys(step.args) if node not in self.copies[arg])
        return sum(int(self.steps[arg].megabytes * 1e6) for arg in missing)

    def assign(self, name: str) -> None:
        step = self.steps[name]
        able = dict.fromkeys(node for arg in step.args for node in self.copies[arg]) or self.free

        def objective(node: str) -> tuple[float, int]:
            moved = self.moved(step, node)
            return self.occupancy[node] / 2 + moved / self.network.bandwidth, moved

        node = min(able, key=objective)
        self.occupancy[node] += step.seconds
        missing = {arg for arg in step.args if node not in self.copies[arg] and self.steps[arg].megabytes}
        known = {arg for needed in self.fetching[node].values() for arg in needed}
        self.fetching[node][name] = missing
        for arg in sorted(missing - known):
            source = min(self.copies[arg], key=lambda n: (self.transfers.load(n), n))
            self.transfers.start(arg, int(self.steps[arg].megabytes * 1e6), source, node, self.now)
        self.admit(node)

    def arrived(self, datum: str, node: str) -> None:
        self.copies[datum][node] = None
        for needed in self.fetching[node].values():
            needed.discard(datum)
        self.admit(node)

    def admit(self, node: str) -> None:
        for name in [name for name, needed in self.fetching[node].items() if not needed]:
            del self.fetching[node][name]
            heappush(self.ready[node], (self.place[name], name))
        ready = self.ready[node]
        # The first in line blocks those behind it.
        while ready and self.steps[ready[0][1]].cpu <= self.free[node]:
            name = heappop(ready)[1]
            self.free[node] -= self.steps[name].cpu
            stop_s = self.now + ROUND_TRIP_S / 5 + self.steps[name].seconds
            heappush(self.ends, (stop_s, next(self.number), name, node))

    def ended(self, name: str, node: str) -> None:
        step = self.steps[name]
        self.free[node] += step.cpu
        self.occupancy[node] -= step.seconds
        self.copies[name] = {node: None}
        for taker in self.takers[name]:
            self.missing[taker] -= 1
            if not self.missing[taker]:
                self.assign(taker)
        self.admit(node)


def table(tell: Callable[[str], None] = print) -> None:
    """Print as Markdown, row by row."""
    for title, network in NETWORKS.items():
        tell(f"\n{title}; seconds and megabytes moved\n")
        tell(f"| shape | model of stock Dask | blind | {' | '.join(BUILT_IN)} | learned |")
        tell(f"|---|{'--:|' * (3 + len(BUILT_IN))}")
        for name in SHAPES:
            found: list[tuple[float, int]] = [StockDask(list(SHAPES[name]()), network).run()]
            found.append(outcome(name, FIRST_AVAILABLE.name, network, blind=True))
            found += [outcome(name, strategy, network) for strategy in BUILT_IN]
            found.append(outcome(name, FIRST_AVAILABLE.name, network, learned=1))
            cells = " | ".join(f"{seconds:.2f} s, {moved / 1e6:,.0f} MB" for seconds, moved in found)
            tell(f"| {name} | {cells} |")


if __name__ == "__main__":
    table()
