"""A search for small scenarios on which our order is bad.

Any order that is a rule has graphs on which another rule is better, twice as good at worst or
more; benchmarks made by hand do not show them.  So a scenario is changed a little at a time, and a
change is kept if the makespan under our order grows against that of the best of several others, or
sometimes if it does not: simulated annealing over problems, as in PISA (Coleman and Krishnamachari,
2024).  All schedules are simulated, with no round trip, by the engine itself; only the order differs.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.scenarios import Scenario, Task, write
from benchmarks.simulated import problem
from handoff_dask.placement.strategies import BUILT_IN
from handoff_dask.simulation import SimulatedFunction, simulate
from handoff_dask.simulation.planning import improve
from handoff_dask.simulation.problem import Problem, ranks_of

#: Functions of a scenario: as many as a reader can follow, and fewer than a run that is large.
SIZE = 24
#: At the start a change that is worse by this share is kept one time in three; at the end hardly ever.
WARM, COLD = 0.05, 0.002
#: Orders that the planner may try: what it does in a round of the live part, about.
TRIES = 60


@dataclass(frozen=True)
class Verdict:
    """Makespans of one scenario, in seconds."""

    #: In the order that a run starts with.
    ours_s: float
    #: After planning.
    planned_s: float
    #: The best of the simple rules, and which it is.
    best_s: float
    rule: str

    @property
    def loss(self) -> float:
        """How many times as long our order takes."""
        return self.ours_s / self.best_s


def _rules(functions: list[SimulatedFunction]) -> Iterator[tuple[str, dict[object, float]]]:
    """Simple orders: what others do, and a few that chance gives."""
    ranks = ranks_of(functions)
    width = {f.id: max((units for _, units in f.cost.amounts), default=1) for f in functions}
    most = max(width.values())
    share = {key: units / most for key, units in width.items()}
    yield "as submitted", {f.id: -float(n) for n, f in enumerate(functions)}
    yield "longest path", dict(ranks)
    yield "widest first", {key: share[key] + ranks[key] * 1e-6 for key in ranks}
    yield "longest first", {f.id: f.duration_s for f in functions}
    yield "shortest first", {f.id: -f.duration_s for f in functions}
    yield "path times width", {key: ranks[key] * (0.25 + share[key]) for key in ranks}
    yield "most work", {f.id: f.duration_s * share[f.id] for f in functions}
    chance = random.Random(5)
    for number in range(8):
        yield f"chance {number}", {key: chance.random() for key in ranks}


def judge(scenario: Scenario, tries: int = 0) -> Verdict:
    """Simulate a scenario in our order and in others; with ``tries`` the planner's, too."""
    ours = problem(scenario)
    functions, nodes = list(ours.functions), list(ours.nodes)
    ours_s = _makespan_s(ours)
    best_s, rule = ours_s, "ours"
    for name, ranks in _rules(functions):
        for strategy in ("first_available", "cost_optimized"):
            run = simulate(functions, nodes, BUILT_IN[strategy], ranks=ranks, idleness=False)
            if run.makespan_s < best_s * (1 - 1e-9):
                best_s, rule = run.makespan_s, f"{name}, {strategy}"
    planned_s = ours_s
    if tries:
        planned_s = improve(ours, seed=1, go_on=lambda tried: tried < tries).makespan_s
    return Verdict(ours_s, planned_s, best_s, rule)


def _makespan_s(of: Problem) -> float:
    return simulate(of.functions, of.nodes, of.strategy, ranks=of.ranks, idleness=False).makespan_s


# Changes of a scenario


def _duration(s: Scenario, chance: random.Random) -> Scenario:
    n = chance.randrange(len(s.tasks))
    seconds = min(10.0, max(0.1, s.tasks[n].duration_s * math.exp(chance.uniform(-1, 1))))
    return _with(s, n, replace(s.tasks[n], duration_s=round(seconds, 2)))


def _cost(s: Scenario, chance: random.Random) -> Scenario:
    n = chance.randrange(len(s.tasks))
    most = {key: max(offer.get(key, 0) for offer in s.nodes.values()) for key in ("cpu", "memory_mb", "gpu")}
    # All that it asks for has to be on one node.
    offer = chance.choice(list(s.nodes.values()))
    cost: dict[str, float] = {"cpu": chance.randint(1, int(offer["cpu"]))}
    cost["memory_mb"] = 1000 * chance.randint(1, int(offer["memory_mb"] // 1000))
    if most["gpu"] and offer.get("gpu") and chance.random() < 0.5:
        cost["gpu"] = 1
    return _with(s, n, replace(s.tasks[n], cost=cost))


def _argument(s: Scenario, chance: random.Random) -> Scenario:
    """Take an argument away from a function, or give it one more."""
    n = chance.randrange(1, len(s.tasks))
    task = s.tasks[n]
    other = s.tasks[chance.randrange(n)].id
    args = tuple(a for a in task.args if a != other) if other in task.args else (*task.args, other)
    if len(args) > 3:
        args = args[1:]
    return _with(s, n, replace(task, args=args))


def _offer(s: Scenario, chance: random.Random) -> Scenario:
    """Change a node, if all functions can still be held."""
    name = chance.choice(list(s.nodes))
    offer: dict[str, float] = {
        "cpu": chance.choice([1, 2, 4, 8]),
        "memory_mb": chance.choice([4, 8, 16, 32]) * 1000,
    }
    if chance.random() < 0.3:
        offer["gpu"] = 1
    nodes = {**s.nodes, name: offer}
    held = all(
        any(all(has.get(key, 0) >= units for key, units in task.cost.items()) for has in nodes.values())
        for task in s.tasks
    )
    return replace(s, nodes=nodes) if held else s


def _with(s: Scenario, n: int, task: Task) -> Scenario:
    return replace(s, tasks=(*s.tasks[:n], task, *s.tasks[n + 1 :]))


CHANGES: tuple[Callable[[Scenario, random.Random], Scenario], ...] = (
    _duration, _duration, _cost, _cost, _argument, _argument, _offer,
)  # fmt: skip


def start(chance: random.Random, size: int = SIZE) -> Scenario:
    """A scenario to begin with: any graph, two nodes."""
    tasks: list[Task] = []
    for n in range(size):
        args = {tasks[chance.randrange(n)].id for _ in range(chance.choice([0, 1, 1, 2]))} if n else set()
        seconds = round(chance.uniform(0.2, 5), 2)
        tasks.append(
            Task(f"f-{n:05d}", seconds, {"cpu": chance.randint(1, 4), "memory_mb": 1000}, tuple(sorted(args)))
        )
    nodes = {"a": {"cpu": 4, "memory_mb": 16000}, "b": {"cpu": 4, "memory_mb": 16000}}
    return Scenario("adversary", nodes, tuple(tasks))


def anneal(chance: random.Random, steps: int, size: int = SIZE) -> tuple[Scenario, Verdict]:
    """Look for a scenario on which our order loses much."""
    here = worst = start(chance, size)
    verdict = judge(here)
    loss = most = verdict.loss
    for step in range(steps):
        warmth = WARM * (COLD / WARM) ** (step / steps)
        changed = chance.choice(CHANGES)(here, chance)
        found = judge(changed)
        if found.loss >= loss or chance.random() < math.exp((found.loss - loss) / warmth):
            here, loss = changed, found.loss
            if loss > most:
                worst, most, verdict = changed, loss, found
    return worst, judge(worst, TRIES)


def search(seed: int, count: int, folder: Path, steps: int = 800) -> None:
    """Anneal so many times; keep what was found, and say what it is."""
    for number in range(count):
        scenario, verdict = anneal(random.Random(f"{seed}/{number}"), steps)
        named = replace(scenario, name=f"adversary-{seed}-{number}", best_s=round(verdict.best_s, 5))
        named = replace(named, bound_s=round(named.lower_bound(), 5), notes=f"best in order: {verdict.rule}")
        write(named, folder)
        planned = verdict.planned_s / verdict.best_s
        print(
            f"{named.name}: our order takes {verdict.loss:.3f} times as long as the best simple one"
            f" ({verdict.rule}), {planned:.3f} times after planning; best / bound"
            f" {named.best_s / named.bound_s:.2f}",
            flush=True,
        )
