"""List scheduling on numbers alone: what the engine would do, at a tenth of the work.

To look for a good order many must be tried, and driving the engine takes 50 µs and more for each
function.  Here functions, nodes and demands are numbers from 0 on, what is free on a node is one
integer, and nothing is kept that only a driver needs.  Left out is what the engine does for the sake
of fairness (aging, see :mod:`handoff_dask.placement.backfill`), and what it does about the round
trip: nothing is prefetched.  Without these both make the same schedule.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from handoff_dask.placement.ranking import upward_ranks
from handoff_dask.placement.settings import DEFAULT_SETTINGS
from handoff_dask.simulation.compact_run import BITS, CompactRun, Schedule
from handoff_dask.simulation.problem import Problem
from handoff_dask.simulation.room import Rooms


class CompactProblem:
    """A problem as numbers: functions in topological order, kinds of functions, nodes in name order."""

    def __init__(self, problem: Problem) -> None:
        functions = problem.functions
        self.count = len(functions)
        number = {function.id: n for n, function in enumerate(functions)}
        self.ids = list(number)
        self.durations = [function.duration_s for function in functions]
        self.priorities = [-function.priority for function in functions]
        self.args = [list(dict.fromkeys(number[arg] for arg in f.args)) for f in functions]
        self.dependents: list[list[int]] = [[] for _ in functions]
        for n, args in enumerate(self.args):
            for arg in args:
                self.dependents[arg].append(n)
        #: The longest path from a function's start to the end.
        self.tails = upward_ranks(range(self.count), self.dependents, self.durations)
        self.rooms = Rooms(problem)
        self.kind = self.rooms.kind

    def schedule(
        self,
        ranks: Sequence[float],
        limit_s: float = math.inf,
        reserve_from_s: float = DEFAULT_SETTINGS.reserve_from_s,
    ) -> Schedule | None:
        """What comes of an order: larger ranks first; None if it ends no sooner than the limit.

        None is also what comes of an order under which some function never runs.
        """
        run = CompactRun(self, self._keys(ranks), self.args, self.dependents, self.tails, reserve_from_s)
        return run.run(limit_s)

    def mirrored(self, ranks: Sequence[float]) -> Schedule | None:
        """The same with time reversed: what comes of the order if each function waits for its dependents."""
        plain = [0.0] * self.count
        run = CompactRun(self, self._keys(ranks), self.dependents, self.args, plain, math.inf)
        return run.run(math.inf)

    def bound_s(self) -> float:
        """No schedule is shorter: the longest path, and the use of what all nodes have together."""
        return max(max(self.tails, default=0.0), self.rooms.bound_s(self.durations))

    def blocking(self, schedule: Schedule) -> list[int]:
        """The functions that its end waits for: each starts when the one after it in the list has ended.

        Before a function comes the argument that it waited for, or whoever left it the room.
        """
        start_s, stop_s, node = schedule.start_s, schedule.stop_s, schedule.node
        ended = {(node[n], stop_s[n]): n for n in range(self.count)}
        n = max(range(self.count), key=stop_s.__getitem__)
        chain = [n]
        while start_s[n] > 0:
            last = max(self.args[n], key=stop_s.__getitem__, default=-1)
            if last < 0 or stop_s[last] < start_s[n]:
                last = ended.get((node[n], start_s[n]), -1)
            # A function of no length ends when it starts.
            if last < 0 or last == n or len(chain) > self.count:
                break
            chain.append(n := last)
        return chain

    def _keys(self, ranks: Sequence[float]) -> list[int]:
        """What functions are ordered by: an integer each, the function's number in its last bits.

        In between there is space for the arrival, for those of equal rank.
        """
        priorities = self.priorities
        order = sorted(range(self.count), key=ranks.__getitem__, reverse=True)
        if any(priorities):
            order.sort(key=priorities.__getitem__)
        keys = [0] * self.count
        place = 0
        before: tuple[float, float] | None = None
        for n in order:
            order_key = (priorities[n], ranks[n])
            if order_key != before:
                place += 1
                before = order_key
            keys[n] = place << 2 * BITS | n
        return keys
