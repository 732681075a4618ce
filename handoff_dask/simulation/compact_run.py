"""One order being tried, in numbers alone (see :mod:`handoff_dask.simulation.compact`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush, heapreplace
from typing import Protocol

from handoff_dask.placement.reservation import latest_end_s
from handoff_dask.placement.settings import DEFAULT_SETTINGS
from handoff_dask.simulation.room import Rooms

#: Bits for the number of a function, and for the place in the order of arrivals.
BITS = 24
_NUMBER = (1 << BITS) - 1


@dataclass(frozen=True, slots=True)
class Schedule:
    """When and where each function runs, by number."""

    makespan_s: float
    start_s: Sequence[float]
    stop_s: Sequence[float]
    node: Sequence[int]


class _Reserved:
    """The node that is reserved for the first in order of those that have no room."""

    __slots__ = ("beside", "kind", "spare", "start_s", "where")

    def __init__(self, kind: int, start_s: float, where: int, spare: int) -> None:
        self.kind = kind
        self.start_s = start_s
        self.where = where
        #: What will be free then beside it, as an integer.
        self.spare = spare
        #: Functions that run beside it.
        self.beside: set[int] = set()


class Compact(Protocol):
    """What a run needs of a :class:`~handoff_dask.simulation.compact.CompactProblem`."""

    #: How many functions there are; how long each takes; the kind of each.
    count: int
    durations: list[float]
    kind: list[int]
    #: What is free on nodes.
    rooms: Rooms


class CompactRun:
    """One order being tried: functions by key, the number of each in its last bits."""

    def __init__(
        self,
        problem: Compact,
        keys: list[int],
        args: Sequence[Sequence[int]],
        dependents: Sequence[Sequence[int]],
        tails: Sequence[float],
        reserve_from_s: float,
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
        #: ``(when it ends, number, function)`` of those that run; and those that run, by node.
        self.ends: list[tuple[float, int, int]] = []
        self.running: list[list[int]] = [[] for _ in self.free]
        self.number = 0
        self.arrivals = 0
        self.choose = self._best if self.rooms.score is not None else self._first
        #: How many functions are still to come that ask for what only some nodes have; and for each kind the
        #: nodes that it spares for their sake.
        self.to_come = [sum(kind in kinds for kind in problem.kind) for _, kinds in self.rooms.spared]
        self.sparing: list[frozenset[int]] = self._spared()
        self.reserve_from_s = reserve_from_s
        self.reserved: _Reserved | None = None
        #: A node that is reserved no longer, for which all have to be looked at again.
        self.given_up: dict[int, None] = {}
        #: The function for which no node can be reserved.
        self.hopeless = -1

    def run(self, limit_s: float) -> Schedule | None:
        """Go through it."""
        for n, missing in enumerate(self.missing):
            if not missing:
                self._ready(n)
        now, done = 0.0, 0
        ends = self.ends
        freed: list[int] = []
        while True:
            if self.waiting and not self._place(now, freed, limit_s):
                return None
            if not ends:
                break
            now = ends[0][0]
            freed = []
            while ends and ends[0][0] <= now:
                done += 1
                where = self._end(heappop(ends)[2])
                if where not in freed:
                    freed.append(where)
            if len(freed) > 1:
                freed.sort()
        if done < self.problem.count:
            return None
        return Schedule(now, self.start_s, self.stop_s, self.node)

    def _ready(self, n: int) -> None:
        kind = self.problem.kind[n]
        self.arrivals += 1
        queue = self.queues[kind]
        if not queue:
            self.fresh.add(kind)
            self.waiting[kind] = None
        elif self.reserved is not None:
            durations = self.problem.durations
            if self.keys[n] < queue[0] or durations[n] < durations[queue[0] & _NUMBER]:
                # It may be let in where the first is not.
                self.fresh.add(kind)
        heappush(queue, self.keys[n] | self.arrivals << BITS)

    def _end(self, n: int) -> int:
        """A function ends; the node that it frees."""
        where = self.node[n]
        taken = self.rooms.cost[self.problem.kind[n]]
        self.free[where] += taken
        self.running[where].remove(n)
        reserved = self.reserved
        if reserved is not None and n in reserved.beside:
            reserved.beside.remove(n)
            reserved.spare += taken
        missing = self.missing
        for dependent in self.dependents[n]:
            missing[dependent] -= 1
            if not missing[dependent]:
                self._ready(dependent)
        return where

    def _place(self, now: float, freed: Sequence[int], limit_s: float) -> bool:
        """Start what has room, in order; False if that proves that the limit will be passed."""
        while True:
            heads = self._heads(freed)
            if heads and not self._start_all(heads, freed, now, limit_s):
                return False
            self.fresh.clear()
            if not self.given_up:
                return True
            freed = sorted(self.given_up)
            self.given_up.clear()

    def _heads(self, freed: Sequence[int]) -> list[int]:
        """The first of each kind that has to look at all nodes, or has room on one that was freed."""
        queues, fresh, free = self.queues, self.fresh, self.free
        cost, guard = self.rooms.cost, self.rooms.guard
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
        return heads

    def _start_all(self, heads: list[int], freed: Sequence[int], now: float, limit_s: float) -> bool:
        queues, fresh, waiting, tails = self.queues, self.fresh, self.waiting, self.tails
        kinds, least_s = self.problem.kind, self.reserve_from_s
        barred = -1
        while heads:
            key = heads[0]
            n = key & _NUMBER
            kind = kinds[n]
            if len(waiting) > 1:
                self._reserve_before(kind, key, now, least_s)
                barred = self._barred(n, kind, key, now)
            nodes = self.able[kind] if kind in fresh else freed
            where = self.choose(n, kind, nodes, barred)
            if where < 0:
                heappop(heads)
                if barred >= 0 and barred in nodes:
                    self._backfill_node(kind, now)
                fresh.discard(kind)
                continue
            if now + tails[n] >= limit_s:
                return False
            queue = queues[kind]
            heappop(queue)
            if queue:
                heapreplace(heads, queue[0])
            else:
                heappop(heads)
                del waiting[kind]
            self._start(n, kind, key, where, now)
        return True

    def _start(self, n: int, kind: int, key: int, where: int, now: float) -> None:
        self.free[where] -= self.rooms.cost[kind]
        self.running[where].append(n)
        self.node[n] = where
        self.start_s[n] = now
        self.stop_s[n] = stop_s = now + self.problem.durations[n]
        self.number += 1
        heappush(self.ends, (stop_s, self.number, n))
        if self.reserved is not None:
            self._started_beside(n, kind, key, where, stop_s)
        if self.rooms.group[kind] is not None:
            self._bind(kind, where)
        if self.to_come:
            self._started(kind)

    def _started(self, kind: int) -> None:
        """One function less is to come: nodes may have to be spared no longer."""
        for number, (_, kinds) in enumerate(self.rooms.spared):
            if kind in kinds:
                self.to_come[number] -= 1
                if not self.to_come[number]:
                    self.sparing = self._spared()

    def _spared(self) -> list[frozenset[int]]:
        asked = [pair for pair, left in zip(self.rooms.spared, self.to_come, strict=True) if left]
        return [
            frozenset[int]().union(*(nodes for nodes, kinds in asked if kind not in kinds))
            for kind in range(len(self.rooms.cost))
        ]

    def _bind(self, kind: int, where: int) -> None:
        """The rest of a collocation group goes where the first of it has gone."""
        group = self.rooms.group[kind]
        for other, theirs in enumerate(self.rooms.group):
            if theirs == group:
                self.able[other] = [where] if where in self.able[other] else []

    # Which node

    def _first(self, n: int, kind: int, nodes: Sequence[int], barred: int) -> int:
        """The first node in name order that has room, one that is spared only if there is no other."""
        taken, free, guard, able = self.rooms.cost[kind], self.free, self.rooms.guard, self.able[kind]
        sparing, spared = self.sparing[kind], -1
        for where in nodes:
            if (
                (free[where] - taken) & guard == guard
                and where != barred
                and (nodes is able or where in able)
            ):
                if where not in sparing:
                    return where
                if spared < 0:
                    spared = where
        return spared

    def _best(self, n: int, kind: int, nodes: Sequence[int], barred: int) -> int:
        """The node with room that the strategy likes best, and of several the one with most arguments."""
        taken, free, guard, able = self.rooms.cost[kind], self.free, self.rooms.guard, self.able[kind]
        score = self.rooms.score
        assert score is not None
        fitting = [w for w in nodes if (free[w] - taken) & guard == guard and w in able and w != barred]
        if len(fitting) < 2:
            return fitting[0] if fitting else -1
        scores = [score(kind, where, free[where]) for where in fitting]
        least = min(scores)
        best = [where for where, found in zip(fitting, scores, strict=True) if found == least]
        if len(best) > 1 and self.args[n]:
            counts = Counter(self.node[arg] for arg in self.args[n])
            preferred_node = max(counts, key=lambda where: counts[where])
            if preferred_node in best:
                return preferred_node
        return best[0]

    # The node that is reserved

    def _reserve_before(self, kind: int, key: int, now: float, reserve_from_s: float) -> None:
        """Reserve a node for the first of those that have no room, if it stands before a key."""
        queues, fresh = self.queues, self.fresh
        first = key
        for other in self.waiting:
            if other not in fresh and queues[other][0] < first:
                first = queues[other][0]
        if first == key:
            return
        n = first & _NUMBER
        waits = self.problem.kind[n]
        if self.reserved is not None:
            if self.reserved.kind == waits:
                return
            self._give_up()
        if n != self.hopeless and self.problem.durations[n] >= reserve_from_s:
            self.reserved = self._plan(waits, now)
            if self.reserved is None:
                self.hopeless = n

    def _plan(self, kind: int, now: float) -> _Reserved | None:
        """The node where a kind has room first if nothing more is started there."""
        taken, guard, stop_s = self.rooms.cost[kind], self.rooms.guard, self.stop_s
        cost, kinds = self.rooms.cost, self.problem.kind
        best: tuple[float, float, int, int] | None = None
        for where in self.able[kind]:
            start_s, free = now, self.free[where]
            for end_s, n in sorted((stop_s[n], n) for n in self.running[where]):
                if end_s > start_s and (free - taken) & guard == guard:
                    break
                start_s = end_s
                free += cost[kinds[n]]
            if (free - taken) & guard == guard and (best is None or start_s <= best[0]):
                plan = (start_s, self.rooms.lacking(kind, where, self.free[where]), where, free - taken)
                best = plan if best is None else min(best, plan)
        return None if best is None else _Reserved(kind, best[0], best[2], best[3])

    def _barred(self, n: int, kind: int, key: int, now: float) -> int:
        """The node on which a function must not start because it is reserved, or -1."""
        reserved = self.reserved
        if reserved is None or kind == reserved.kind:
            return -1
        duration_s = self.problem.durations[n]
        if now + duration_s <= latest_end_s(DEFAULT_SETTINGS, reserved.start_s, duration_s):
            return -1
        if (reserved.spare - self.rooms.cost[kind]) & self.rooms.guard == self.rooms.guard:
            return -1
        return -1 if key < self.queues[reserved.kind][0] else reserved.where

    def _started_beside(self, n: int, kind: int, key: int, where: int, stop_s: float) -> None:
        """Note what a start means for the node that is reserved."""
        reserved = self.reserved
        assert reserved is not None
        if kind == reserved.kind or (where == reserved.where and key < self.queues[reserved.kind][0]):
            self._give_up()
        elif where == reserved.where and stop_s > latest_end_s(
            DEFAULT_SETTINGS, reserved.start_s, self.problem.durations[n]
        ):
            reserved.spare -= self.rooms.cost[kind]
            reserved.beside.add(n)

    def _give_up(self) -> None:
        assert self.reserved is not None
        self.given_up[self.reserved.where] = None
        self.reserved = None

    def _backfill_node(self, kind: int, now: float) -> None:
        """Start functions behind the first of a kind that do not delay the one a node is reserved for."""
        taken, guard, queue = self.rooms.cost[kind], self.rooms.guard, self.queues[kind]
        while self.reserved is not None and len(queue) > 1:
            where = self.reserved.where
            if (self.free[where] - taken) & guard != guard or where not in self.able[kind]:
                return
            admitted = [
                key
                for key in queue[: DEFAULT_SETTINGS.backfill_depth]
                if self._barred(key & _NUMBER, kind, key, now) < 0
            ]
            if not admitted:
                return
            key = min(admitted)
            queue.remove(key)
            heapify(queue)
            self._start(key & _NUMBER, kind, key, where, now)
