"""List scheduling on numbers alone: what the engine would do, at a tenth of the work.

To look for a good order many must be tried, and driving the engine takes 50 µs and more for each
function.  Here functions, nodes and demands are numbers from 0 on, what is free on a node is one
integer, and nothing is kept that only a driver needs.  Left out is what the engine does for the
sake of fairness: reservations and the trickle (see :mod:`handoff_dask.placement.reservation`), and
what it does about the round trip: nothing is sent ahead.  Without these both make the very same
schedule.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush, heapreplace
from typing import TYPE_CHECKING

from handoff_dask.placement.ordering import upward_ranks
from handoff_dask.simulation.room import Rooms

if TYPE_CHECKING:
    from handoff_dask.simulation.problem import Problem

#: Bits for the number of a function, and for the place in the order of arrivals.
_BITS = 24
_NUMBER = (1 << _BITS) - 1


@dataclass(frozen=True, slots=True)
class Schedule:
    """When and where each function runs, by number."""

    makespan_s: float
    start_s: Sequence[float]
    stop_s: Sequence[float]
    node: Sequence[int]


class LeanProblem:
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

    def schedule(self, ranks: Sequence[float], limit_s: float = math.inf) -> Schedule | None:
        """What comes of an order: larger ranks first; None if it ends no sooner than the limit.

        None is also what comes of an order under which some function never runs.
        """
        return _Run(self, self._keys(ranks), self.args, self.dependents, self.tails).run(limit_s)

    def mirrored(self, ranks: Sequence[float]) -> Schedule | None:
        """The same with time reversed: what comes of the order if each function waits for its dependents."""
        plain = [0.0] * self.count
        return _Run(self, self._keys(ranks), self.dependents, self.args, plain).run(math.inf)

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
            standing = (priorities[n], ranks[n])
            if standing != before:
                place += 1
                before = standing
            keys[n] = place << 2 * _BITS | n
        return keys


class _Run:
    """One order being tried."""

    def __init__(
        self,
        problem: LeanProblem,
        keys: list[int],
        args: Sequence[Sequence[int]],
        dependents: Sequence[Sequence[int]],
        tails: Sequence[float],
    ) -> None:
        self.problem = problem
        self.keys = keys
        self.args = args
        self.dependents = dependents
        self.tails = tails
        self.rooms = problem.rooms
        self.free = list(self.rooms.total)
        self.able: list[Sequence[int]] = list(self.rooms.able)
        self.missing = [len(a) for a in args]
        self.start_s = [0.0] * problem.count
        self.stop_s = [0.0] * problem.count
        self.node = [-1] * problem.count
        #: Those that wait, by kind, and the kinds of which some wait.
        self.queues: list[list[int]] = [[] for _ in self.rooms.cost]
        self.waiting: dict[int, None] = {}
        #: Kinds that have to look at all nodes, for nobody of them waited before.
        self.fresh: set[int] = set()
        #: ``(when it ends, number, function)`` of those that run.
        self.ends: list[tuple[float, int, int]] = []
        self.number = 0
        self.arrivals = 0
        self.choose = self._best if self.rooms.score is not None else self._first

    def run(self, limit_s: float) -> Schedule | None:
        """Go through it."""
        for n, missing in enumerate(self.missing):
            if not missing:
                self._ready(n)
        now, done = 0.0, 0
        ends, free, node, cost, kind = self.ends, self.free, self.node, self.rooms.cost, self.problem.kind
        freed: list[int] = []
        while True:
            if self.waiting and not self._place(now, freed, limit_s):
                return None
            if not ends:
                break
            now = ends[0][0]
            freed = []
            while ends and ends[0][0] <= now:
                n = heappop(ends)[2]
                done += 1
                where = node[n]
                free[where] += cost[kind[n]]
                if where not in freed:
                    freed.append(where)
                for dependent in self.dependents[n]:
                    self.missing[dependent] -= 1
                    if not self.missing[dependent]:
                        self._ready(dependent)
            if len(freed) > 1:
                freed.sort()
        if done < self.problem.count:
            return None
        return Schedule(now, self.start_s, self.stop_s, node)

    def _ready(self, n: int) -> None:
        kind = self.problem.kind[n]
        self.arrivals += 1
        queue = self.queues[kind]
        if not queue:
            self.fresh.add(kind)
            self.waiting[kind] = None
        heappush(queue, self.keys[n] | self.arrivals << _BITS)

    def _place(self, now: float, freed: Sequence[int], limit_s: float) -> bool:
        """Start what has room, in order; False if that proves that the limit will be passed."""
        queues, fresh, free, tails = self.queues, self.fresh, self.free, self.tails
        kinds, durations, cost, guard = (
            self.problem.kind,
            self.problem.durations,
            self.rooms.cost,
            self.rooms.guard,
        )
        heads = []
        for kind in self.waiting:
            if kind in fresh:
                heads.append(queues[kind][0])
            else:
                taken = cost[kind]
                for where in freed:
                    if (free[where] - taken) & guard == guard:
                        heads.append(queues[kind][0])
                        break
        heapify(heads)
        while heads:
            n = heads[0] & _NUMBER
            kind = kinds[n]
            where = self.choose(n, kind, self.able[kind] if kind in fresh else freed)
            if where < 0:
                heappop(heads)
                continue
            if now + tails[n] >= limit_s:
                return False
            free[where] -= cost[kind]
            self.node[n] = where
            self.start_s[n] = now
            self.stop_s[n] = stop_s = now + durations[n]
            self.number += 1
            heappush(self.ends, (stop_s, self.number, n))
            queue = queues[kind]
            heappop(queue)
            if queue:
                heapreplace(heads, queue[0])
            else:
                heappop(heads)
                del self.waiting[kind]
            if self.rooms.group[kind] is not None:
                self._bind(kind, where)
        fresh.clear()
        return True

    def _bind(self, kind: int, where: int) -> None:
        """The rest of a collocation group goes where the first of it has gone."""
        group = self.rooms.group[kind]
        for other, theirs in enumerate(self.rooms.group):
            if theirs == group:
                self.able[other] = [where] if where in self.able[other] else []

    def _first(self, n: int, kind: int, nodes: Sequence[int]) -> int:
        """The first node in name order that has room."""
        taken, free, guard, able = self.rooms.cost[kind], self.free, self.rooms.guard, self.able[kind]
        for where in nodes:
            if (free[where] - taken) & guard == guard and (nodes is able or where in able):
                return where
        return -1

    def _best(self, n: int, kind: int, nodes: Sequence[int]) -> int:
        """The node with room that the strategy likes best, and of several the one with most arguments."""
        taken, free, guard, able = self.rooms.cost[kind], self.free, self.rooms.guard, self.able[kind]
        score = self.rooms.score
        assert score is not None
        fitting = [w for w in nodes if (free[w] - taken) & guard == guard and w in able]
        if len(fitting) < 2:
            return fitting[0] if fitting else -1
        scores = [score(kind, where, free[where]) for where in fitting]
        least = min(scores)
        best = [where for where, found in zip(fitting, scores, strict=True) if found == least]
        if len(best) > 1 and self.args[n] and not self.rooms.is_by_name:
            counts = Counter(self.node[arg] for arg in self.args[n])
            home = max(counts, key=lambda where: counts[where])
            if home in best:
                return home
        return best[0]
