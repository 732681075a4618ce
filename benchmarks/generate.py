"""Scenarios that nobody has tuned for: mixes of nodes, shapes of DAGs and kinds of costs, drawn by chance.

What was found good on the scenarios in the repository has to be good on these, too.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from benchmarks.scenarios import Scenario, Task

#: Lower bound of every scenario, in seconds.
BOUND_S = 8.0

Amounts = dict[str, float]


@dataclass(frozen=True)
class Kind:
    """Functions of one program: alike in cost, and about as long."""

    name: str
    cost: Amounts
    typical_s: float


class Drawing:
    """A scenario while it is drawn."""

    def __init__(self, chance: random.Random, nodes: dict[str, Amounts]) -> None:
        self.chance = chance
        self.nodes = nodes
        self.tasks: list[Task] = []

    def kind(self, name: str, wide: float = 0.3) -> Kind:
        """A new kind; some are wide, some need what only a few nodes have."""
        chance = self.chance
        node = chance.choice(list(self.nodes.values()))
        cores = int(node["cpu"])
        cpu = max(1, cores // 2) if chance.random() < wide else chance.choice([1, 1, 1, min(2, cores)])
        memory = min(node["memory_mb"], round(chance.lognormvariate(8.0, 1.0), -2))
        cost: Amounts = {"cpu": cpu, "memory_mb": max(200, memory)}
        for scarce in ("gpu", "licence"):
            if scarce in node and chance.random() < 0.3:
                cost[scarce] = 1
        return Kind(name, cost, chance.lognormvariate(0, 0.8))

    def add(self, kind: Kind, *args: str) -> str:
        """One function more."""
        key = f"{kind.name}-{len(self.tasks):05d}"
        duration_s = kind.typical_s * self.chance.lognormvariate(0, 0.3)
        self.tasks.append(Task(key, duration_s, kind.cost, args))
        return key


def _nodes(chance: random.Random) -> dict[str, Amounts]:
    """Between three and ten nodes of up to three makes."""
    makes: list[Amounts] = [
        {"cpu": 4, "memory_mb": 16_000},
        {"cpu": 2, "memory_mb": 4_000},
        {"cpu": 8, "memory_mb": 32_000},
        {"cpu": 8, "memory_mb": 64_000, "gpu": 1},
        {"cpu": 4, "memory_mb": 32_000, "gpu": 2},
        {"cpu": 2, "memory_mb": 64_000, "licence": 1},
    ]
    picked = chance.sample(makes, chance.randint(1, 3))
    return {f"n{i}": dict(chance.choice(picked)) for i in range(chance.randint(3, 10))}


def stages(d: Drawing) -> None:
    """Samples go through the same steps side by side, and are put together at the end."""
    steps = [d.kind(f"step{i}") for i in range(d.chance.randint(3, 9))]
    last = [_chain(d, steps) for _ in range(d.chance.randint(20, 60))]
    d.add(d.kind("gather"), *last)


def _chain(d: Drawing, steps: list[Kind]) -> str:
    key = d.add(steps[0])
    for kind in steps[1:]:
        key = d.add(kind, key)
    return key


def fans(d: Drawing) -> None:
    """One splits, many work, one joins; several times over, and several at once."""
    for lane in range(d.chance.randint(2, 5)):
        key: tuple[str, ...] = ()
        for turn in range(d.chance.randint(2, 4)):
            split, work, join = (d.kind(f"{what}{lane}{turn}") for what in ("split", "work", "join"))
            start = d.add(split, *key)
            key = (d.add(join, *[d.add(work, start) for _ in range(d.chance.randint(5, 50))]),)


def layers(d: Drawing) -> None:
    """Each function takes some of those in the layer before."""
    before: list[str] = []
    for number in range(d.chance.randint(4, 12)):
        kinds = [d.kind(f"layer{number}{k}") for k in "ab"]
        layer = []
        for _ in range(d.chance.randint(10, 60)):
            taken = d.chance.sample(before, min(len(before), d.chance.randint(1, 3)))
            layer.append(d.add(d.chance.choice(kinds), *taken))
        before = layer


def trees(d: Drawing) -> None:
    """Leaves are joined in twos and threes until one is left."""
    kinds = [d.kind(f"level{i}") for i in range(12)]
    level = [d.add(kinds[0]) for _ in range(d.chance.randint(80, 250))]
    depth = 0
    while len(level) > 1:
        depth += 1
        step = d.chance.choice([2, 2, 3])
        level = [d.add(kinds[min(depth, 11)], *level[i : i + step]) for i in range(0, len(level), step)]


def flood(d: Drawing) -> None:
    """A few long chains that need something scarce, in a flood of small functions."""
    small = [d.kind(f"small{i}", wide=0.05) for i in range(3)]
    for _ in range(d.chance.randint(150, 400)):
        d.add(d.chance.choice(small))
    for lane in range(d.chance.randint(1, 6)):
        step = d.kind(f"chain{lane}", wide=0.5)
        _chain(d, [step] * d.chance.randint(5, 25))


def anything(d: Drawing) -> None:
    """Functions take whatever came some time before them."""
    kinds = [d.kind(f"kind{i}") for i in range(d.chance.randint(3, 10))]
    keys: list[str] = []
    for _ in range(d.chance.randint(150, 400)):
        near = keys[-40:]
        taken = d.chance.sample(near, min(len(near), d.chance.choice([0, 1, 1, 2, 4])))
        keys.append(d.add(d.chance.choice(kinds), *taken))


def wave(d: Drawing) -> None:
    """Long functions of two cores that must all start in one wave, which just fits, after many small ones."""
    memory = min(node["memory_mb"] / node["cpu"] for node in d.nodes.values())
    small = Kind("small", {"cpu": 1, "memory_mb": round(memory / 2)}, 0.3)
    long = Kind("long", {"cpu": 2, "memory_mb": round(memory)}, 5.0)
    lanes = int(sum(node["cpu"] // 2 for node in d.nodes.values()))
    ends = []
    for _ in range(lanes):
        first = _chain(d, [small] * d.chance.randint(2, 5))
        ends.append(d.add(long, first))
        # What else the small ones lead to fills one core of a hole of two.
        ends += [d.add(small, first) for _ in range(d.chance.randint(2, 12))]
    d.add(Kind("report", {"cpu": 1, "memory_mb": 200}, 1.5), *ends)


SHAPES: tuple[Callable[[Drawing], None], ...] = (stages, fans, layers, trees, flood, anything, wave)


def scenarios(count: int, chance: random.Random, tries: int = 60) -> Iterator[Scenario]:
    """So many scenarios, the shapes in turn; so many orders are tried to find a good schedule."""
    for number in range(count):
        shape = SHAPES[number % len(SHAPES)]
        drawing = Drawing(chance, _nodes(chance))
        shape(drawing)
        text = f"{shape.__name__}: {' '.join((shape.__doc__ or '').split())}"
        name = f"{shape.__name__}-{chance.randrange(10_000):04d}"
        drawn = Scenario(name, drawing.nodes, tuple(drawing.tasks), notes=text, bound_s=BOUND_S)
        scaled = drawn.scaled_to(BOUND_S)
        yield replace(scaled, best_s=_best_s(scaled, tries))


def _best_s(scenario: Scenario, tries: int) -> float:
    from benchmarks.simulated import best_known

    return round(best_known(scenario, tries), 5)
