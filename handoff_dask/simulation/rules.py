"""Rules by which functions are ranked: where the search for a better order begins.

All start from the longest remaining path.  They differ in what a duration counts, and in what the
sum of them counts: more if a function is hard to place, or takes much of a node.
"""

from __future__ import annotations

import random  # noqa: TID251  # seeded: the same seed gives the same plan
from collections.abc import Sequence

from handoff_dask.placement.ranking import NARROW, scarcities, upward_ranks, widths
from handoff_dask.simulation.compact import CompactProblem
from handoff_dask.simulation.problem import Problem

#: How much a function's own duration counts beside how hard it is to place.
PLAIN = (0.25, 0.5, 0.1, 1.0, 2.0)


class Rules:
    """The rules, for one problem; ranks are lists by the number of a function."""

    def __init__(self, problem: Problem, compact: CompactProblem) -> None:
        self._lean = compact
        costs = list(dict.fromkeys(function.cost for function in problem.functions))
        offers = [node.capabilities for node in problem.nodes]
        hard = dict(zip(costs, scarcities(costs, offers), strict=True))
        wide = dict(zip(costs, widths(costs, offers), strict=True))
        #: How hard each function is to place, and the share that it takes of the largest node.
        self.scarcity = [hard[function.cost] for function in problem.functions]
        self.width = [wide[function.cost] for function in problem.functions]

    def weighted(self, plain: float, by: Sequence[float] | None = None) -> list[float]:
        """The longest remaining path, durations weighed by scarcity (or by another list)."""
        compact = self._lean
        weights = [plain + weight for weight in (self.scarcity if by is None else by)]
        return upward_ranks(range(compact.count), compact.dependents, compact.durations, weights)

    def widened(self, ranks: Sequence[float], narrow: float = NARROW) -> list[float]:
        """Ranks that count the more, the wider a function is."""
        return [rank * (narrow + width) for rank, width in zip(ranks, self.width, strict=True)]

    def all(self) -> list[list[float]]:
        """Each rule once, those first that are best as a rule."""
        paths = list(self._lean.tails)
        weighted = [self.weighted(plain) for plain in PLAIN]
        if len(set(self.scarcity)) < 2:
            return [paths, self.widened(paths)] if len(set(self.width)) > 1 else [paths]
        return [self.widened(weighted[0]), weighted[0], self.widened(paths), paths, *weighted[1:]]

    def drawn(self, chance: random.Random) -> list[float]:
        """Some rule in between, with every rank a little off."""
        kind = chance.random()
        if kind < 0.3:
            ranks = list(self._lean.tails)
        else:
            ranks = self.weighted(chance.choice(PLAIN), None if kind < 0.65 else self.width)
        if chance.random() < 0.5:
            ranks = self.widened(ranks, chance.random())
        return shaken(ranks, chance, chance.choice((0.1, 0.2)))


def shaken(ranks: Sequence[float], chance: random.Random, by: float) -> list[float]:
    """The same ranks, each off by up to this share."""
    draw = chance.random
    return [rank * (1 + by * (2 * draw() - 1)) for rank in ranks]
