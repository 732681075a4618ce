"""Looking for a better order: what is left of a run is simulated under several, the best is kept.

List scheduling is fast but blind: whatever rule ranks the functions, some graph makes it twice as
slow as another rule.  So several rules are tried on the graph at hand, and around the best one
found so far random changes of it: a portfolio with local search, each candidate judged by driving
the placement engine itself under a virtual clock.
"""

from __future__ import annotations

import random  # noqa: TID251  # seeded: the same seed gives the same plan
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from handoff_dask.placement.events import Demand, GroupKey
from handoff_dask.placement.ordering import scarcities, upward_ranks
from handoff_dask.placement.strategies import Strategy
from handoff_dask.simulation.problem import SimulatedFunction, SimulatedNode
from handoff_dask.simulation.running import simulate

__all__ = ["Plan", "Problem", "improve", "weighted_ranks"]

#: How much a function's own duration counts beside how hard it is to place.
PLAIN = (0.5, 0.25, 1.0, 0.1, 2.0)
#: A candidate must be better by this share to be kept.
GAIN = 0.002


@dataclass(frozen=True, slots=True)
class Problem:
    """What is left of a run.

    A function that runs already takes what is left of it, is pinned to its node, and has an
    infinite priority, so that it starts at once.
    """

    #: In topological order.
    functions: Sequence[SimulatedFunction]
    nodes: Sequence[SimulatedNode]
    strategy: Strategy
    #: ``{function: rank}``, by which it is ordered now.
    ranks: Mapping[Hashable, float]
    groups: Mapping[GroupKey, Demand] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """The best order that was found."""

    #: ``{function: rank}``.
    ranks: Mapping[Hashable, float]
    #: Seconds until the end, by simulation: with these ranks, and with those it had.
    makespan_s: float
    before_s: float
    #: How many orders were tried.
    tried: int

    @property
    def is_better(self) -> bool:
        """Whether it is worth changing the order."""
        return self.makespan_s < self.before_s


def improve(problem: Problem, *, seed: int, go_on: Callable[[int], bool]) -> Plan:
    """Try orders as long as ``go_on(how many were tried)`` says so.

    Parameters
    ----------
    problem
        What is left of the run.
    seed
        Of the random candidates: the same seed and patience give the same plan.
    go_on
        Asked before each candidate; the present order is tried in any case.
    """
    before_s = makespan_s = _makespan_s(problem, problem.ranks)
    best, tried = problem.ranks, 1
    candidates = _candidates(problem, random.Random(seed), lambda: best)
    while go_on(tried):
        ranks = next(candidates)
        candidate_s = _makespan_s(problem, ranks)
        tried += 1
        if candidate_s < makespan_s * (1 - GAIN):
            best, makespan_s = ranks, candidate_s
    return Plan(best, makespan_s, before_s, tried)


def weighted_ranks(problem: Problem, plain: float) -> dict[Hashable, float]:
    """The longest remaining path, each function weighed by how hard it is to place.

    Parameters
    ----------
    problem
        What is left of the run.
    plain
        What a function counts that is no trouble at all; the hardest counts 1 more.
    """
    return _Graph(problem).ranks(plain)


class _Graph:
    """A problem's functions as numbers."""

    def __init__(self, problem: Problem) -> None:
        functions = problem.functions
        self.number = {function.id: n for n, function in enumerate(functions)}
        self.dependents: list[list[int]] = [[] for _ in functions]
        for n, function in enumerate(functions):
            for arg in function.args:
                self.dependents[self.number[arg]].append(n)
        self.durations = [function.duration_s for function in functions]
        costs = list(dict.fromkeys(function.cost for function in functions))
        hard = dict(zip(costs, scarcities(costs, [n.capabilities for n in problem.nodes]), strict=True))
        self.scarcity = [hard[function.cost] for function in functions]

    def ranks(self, plain: float) -> dict[Hashable, float]:
        weights = [plain + s for s in self.scarcity]
        ranks = upward_ranks(range(len(weights)), self.dependents, self.durations, weights)
        return dict(zip(self.number, ranks, strict=True))

    def paths(self) -> dict[Hashable, float]:
        ranks = upward_ranks(range(len(self.durations)), self.dependents, self.durations)
        return dict(zip(self.number, ranks, strict=True))


def _candidates(
    problem: Problem, chance: random.Random, best: Callable[[], Mapping[Hashable, float]]
) -> Iterator[Mapping[Hashable, float]]:
    """First the rules as they are, then changes of the rules and of the best order so far, in turn."""
    graph = _Graph(problem)
    rules = [graph.ranks(plain) for plain in PLAIN]
    yield rules[0]
    yield graph.paths()
    yield from rules[1:]
    while True:
        yield _shaken(chance.choice(rules), chance, chance.choice((0.1, 0.2)))
        yield _shaken(best(), chance, chance.choice((0.03, 0.1)))


def _shaken(ranks: Mapping[Hashable, float], chance: random.Random, by: float) -> dict[Hashable, float]:
    """The same ranks, each off by up to this share."""
    return {function: rank * (1 + by * (2 * chance.random() - 1)) for function, rank in ranks.items()}


def _makespan_s(problem: Problem, ranks: Mapping[Hashable, float]) -> float:
    return simulate(
        problem.functions,
        problem.nodes,
        problem.strategy,
        ranks=ranks,
        groups=problem.groups,
        idleness=False,
    ).makespan_s
