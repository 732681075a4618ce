"""The search for an order: rules, rules applied backwards in time, then small changes of the best.

What is tried is judged by compact simulation.  A trial ends as soon as it is certain that it cannot
beat the best schedule so far.
"""

from __future__ import annotations

import math
import random  # noqa: TID251  # seeded: the same seed gives the same plan
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle

from handoff_dask.simulation.compact import CompactProblem
from handoff_dask.simulation.compact_run import Schedule
from handoff_dask.simulation.problem import Problem
from handoff_dask.simulation.rules import Rules, shaken

#: So many of the rules' schedules are justified, and so many times at most.
JUSTIFIED, TIMES = 3, 3
#: An order as good as the best replaces it, so that the search wanders: sums of floats differ a little.
EVEN = 1 + 1e-9


class Search:
    """One search.  The same seed tries the same orders."""

    def __init__(self, problem: Problem, seed: int) -> None:
        self.compact = CompactProblem(problem)
        self._problem = problem
        self._chance = random.Random(seed)
        #: How many orders were tried.
        self.tried = 0
        #: The best schedule so far, and the ranks that lead to it.
        self.best: Schedule | None = None
        self.ranks: Sequence[float] = [problem.ranks[key] for key in self.compact.ids]

    @property
    def makespan_s(self) -> float:
        """Of the best schedule so far."""
        return math.inf if self.best is None else self.best.makespan_s

    def start(self) -> float:
        """Try the present order; its makespan."""
        self._try(self.ranks, math.inf)
        return self.makespan_s

    def steps(self) -> Iterator[bool]:
        """Try one order after the other; True each time the next phase begins.

        It ends when nothing can be better.
        """
        bound_s = self.compact.bound_s() * EVEN
        for is_new in self._all_steps():
            if self.makespan_s <= bound_s:
                return
            yield is_new

    def _all_steps(self) -> Iterator[bool]:
        rules = Rules(self._problem, self.compact)
        found = [] if self.best is None else [self.best]
        for ranks in rules.all():
            schedule = self._try(ranks, math.inf)
            if schedule is not None:
                found.append(schedule)
            yield False
        yield True
        for schedule in sorted(found, key=lambda s: s.makespan_s)[:JUSTIFIED]:
            for _ in self._justify(schedule, TIMES):
                yield False
        yield True
        moves: list[Callable[[], Iterator[None]]] = [
            lambda: self._once(rules.drawn(self._chance)),
            lambda: self._once(shaken(self.ranks, self._chance, self._chance.choice((0.03, 0.1)))),
            lambda: self._once(self._without_blocks()),
            lambda: self._once(self._by_kind()),
            self._beside,
        ]
        for move in cycle(moves):
            for _ in move():
                yield False

    def _try(self, ranks: Sequence[float], limit_s: float) -> Schedule | None:
        self.tried += 1
        schedule = self.compact.schedule(ranks, limit_s)
        if schedule is not None and (self.best is None or schedule.makespan_s <= self.best.makespan_s):
            self.best, self.ranks = schedule, ranks
        return schedule

    def _once(self, ranks: Sequence[float]) -> Iterator[None]:
        self._try(ranks, self.makespan_s * EVEN)
        yield

    def _justify(self, schedule: Schedule | None, times: int) -> Iterator[None]:
        """Push a schedule to its end, then back to its start, as long as it gets shorter.

        Who ended last goes first in mirrored time, as late as can be; who starts first then, goes
        first.  It is the justification of Valls, Ballestín and Quintanilla (2005).
        """
        for _ in range(times):
            if schedule is None:
                return
            before_s = schedule.makespan_s
            self.tried += 1
            late = self.compact.mirrored(schedule.stop_s)
            yield
            schedule = None if late is None else self._try(late.stop_s, before_s)
            yield

    def _beside(self) -> Iterator[None]:
        """Order functions by when they start, each a little off, and justify what comes of it."""
        assert self.best is not None
        # Seconds that remain: ranks stay above zero, as those of functions that nobody waits for.
        last_s = self.best.makespan_s
        off_s, draw = last_s * self._chance.choice((0.01, 0.03, 0.1)), self._chance.random
        ranks = [last_s - start_s + off_s * 2 * draw() for start_s in self.best.start_s]
        schedule = self._try(ranks, 1.02 * self.makespan_s)
        yield
        yield from self._justify(schedule, 1)

    def _without_blocks(self) -> list[float]:
        """Raise some of those that the end of the best schedule waits for, one after the other."""
        assert self.best is not None
        chance = self._chance
        share, factor = chance.choice((0.1, 0.3, 0.6)), chance.choice((1.02, 1.05, 1.2))
        ranks = list(self.ranks)
        for n in self.compact.blocking(self.best):
            if chance.random() < share:
                ranks[n] *= factor
        return ranks

    def _by_kind(self) -> list[float]:
        """Raise or lower all functions of one kind."""
        chosen = self._chance.randrange(len(self.compact.rooms.cost))
        factor = self._chance.choice((0.8, 0.9, 1.1, 1.25, 1.5))
        kinds = self.compact.kind
        return [r * factor if k == chosen else r for r, k in zip(self.ranks, kinds, strict=True)]
