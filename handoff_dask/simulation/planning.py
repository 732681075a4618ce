"""Looking for a better order: what is left of a run is simulated under many, the best is kept.

List scheduling is fast but blind: whatever rule ranks the functions, some graph makes it twice as
slow as another rule.  So several rules are tried on the graph at hand, and changes of the best one
found so far (:mod:`handoff_dask.simulation.searching`).  Most of what is tried is simulated in
numbers alone; what is to be a plan is judged by driving the placement engine itself under a
virtual clock.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass

from handoff_dask.placement.ranking import starting_ranks
from handoff_dask.simulation.compact import CompactProblem
from handoff_dask.simulation.problem import Problem
from handoff_dask.simulation.running import simulate
from handoff_dask.simulation.searching import Search

__all__ = ["Plan", "Problem", "first_ranks", "improve", "plans"]

#: A plan must be better by this share to be worth telling.
GAIN = 0.002
#: To judge one by the engine takes as long as ten tries: so many at least lie between two judgements.
TRIES = 20
#: Larger problems are not judged by the engine: it would take more than half a second.
JUDGED = 10_000


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


def plans(problem: Problem, *, seed: int, go_on: Callable[[int], bool]) -> Iterator[Plan]:
    """Plans, each better than the one before; the first is the present order.

    Parameters
    ----------
    problem
        What is left of the run.
    seed
        Of the random candidates: the same seed and patience give the same plans.
    go_on
        Asked after each order that was tried, with their number.

    Raises
    ------
    SimulationStuck
        If a function can never run.
    """
    search = Search(problem, seed)
    search.start()
    before_s = judged_s = best_s = _judged_s(problem, problem.ranks, search)
    yield Plan(problem.ranks, before_s, before_s, 1)
    if search.best is None:
        return
    not_before = 0
    steps = search.steps()
    while True:
        is_new_phase = next(steps, None)
        is_over = not go_on(search.tried) or is_new_phase is None
        promising = search.makespan_s < min(best_s, judged_s) * (1 - GAIN)
        if promising and (is_over or is_new_phase or search.tried >= not_before):
            judged_s = search.makespan_s
            not_before = search.tried + TRIES
            ranks = dict(zip(search.compact.ids, search.ranks, strict=True))
            makespan_s = _judged_s(problem, ranks, search)
            if makespan_s < best_s * (1 - GAIN):
                best_s = makespan_s
                yield Plan(ranks, best_s, before_s, search.tried)
        if is_over:
            return


def improve(problem: Problem, *, seed: int, go_on: Callable[[int], bool]) -> Plan:
    """The last of :func:`plans`, and how many orders were tried in all."""
    tried = 1

    def counting(count: int) -> bool:
        nonlocal tried
        tried = count
        return go_on(count)

    best = None
    for plan in plans(problem, seed=seed, go_on=counting):
        best = plan
    assert best is not None
    return Plan(best.ranks, best.makespan_s, best.before_s, tried)


def first_ranks(problem: Problem) -> dict[Hashable, float]:
    """The ranks that a run starts with (see :func:`handoff_dask.placement.ranking.starting_ranks`)."""
    compact = CompactProblem(problem)
    costs = list(dict.fromkeys(function.cost for function in problem.functions))
    number = {cost: n for n, cost in enumerate(costs)}
    ranks = starting_ranks(
        range(compact.count),
        compact.dependents,
        compact.durations,
        [number[function.cost] for function in problem.functions],
        costs,
        [node.capabilities for node in problem.nodes],
    )
    return dict(zip(compact.ids, ranks, strict=True))


def _judged_s(problem: Problem, ranks: Mapping[Hashable, float], search: Search) -> float:
    """The makespan by the engine, of the best order of a search."""
    if len(problem.functions) > JUDGED and search.best is not None:
        return search.makespan_s
    return simulate(
        problem.functions,
        problem.nodes,
        problem.strategy,
        ranks=ranks,
        groups=problem.groups,
        idleness=False,
    ).makespan_s
